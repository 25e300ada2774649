"""Who is given to the library, and who waits: a bounded queue in order of arrival. No clock, no library."""

from collections import deque


class QueueFull(Exception):
    """The queue holds as many requests as it may; the message says how many."""


class Scheduler:
    """`slots` requests run at once, `max_queue_size` more may wait. What the library does with those is its own."""

    def __init__(self, slots, max_queue_size):
        self.slots, self.max_queue_size = slots, max_queue_size
        self.waiting, self.running = deque(), []

    def __iter__(self):
        """Give every request that is here."""
        yield from self.waiting
        yield from self.running

    @property
    def slots_used(self):
        """How many run."""
        return len(self.running)

    @property
    def is_idle(self):
        """Whether nobody runs or waits."""
        return not (self.waiting or self.running)

    def submit(self, *requests):
        """Put all of the requests into the queue, or none; raise QueueFull. Those that find a slot are not queued."""
        if len(self.waiting) + len(requests) > self.max_queue_size + self.slots - self.slots_used:
            raise QueueFull(
                f"the queue is full: {self.max_queue_size} requests wait for {self.slots} slots; try again later"
            )
        self.waiting.extend(requests)

    def start(self):
        """Return the request that runs next, None when none waits or no slot is free."""
        if not self.waiting or self.slots_used == self.slots:
            return None
        self.running.append(self.waiting.popleft())
        return self.running[-1]

    def remove(self, request):
        """Take `request` out, wherever it is."""
        (self.running if request in self.running else self.waiting).remove(request)
