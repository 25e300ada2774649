"""The outbox: carries what generations have produced to their callers, from a thread of its own.

While the engine computes the next step, the tokens of the last one are on their way. What has not been sent piles up
in its generation's `output` and goes as one response. Each response costs all steps behind this one and the caller some
time on the cores that the engine computes on: a token waits for the next one if that is due soon, and after sending,
the outbox rests for a multiple of the time that it took. So a fast stream gets two tokens a response, and many streams
get several.

A last token never waits. A first one goes out on the engine's own thread, which then pauses: beside a step of the
engine on every core, the other steps would bring it to its caller in twice the time.

A caller that sits behind another step (it gave a `stream_context`) cannot be seen to leave by this model: it gets an
empty heartbeat while there is nothing to send, so that the step that can see it is called. A direct caller is asked.
"""

import time
from threading import Condition, Thread

HEARTBEAT_S = 0.1
# However many there are, heartbeats may not take the cores from those that run; but one in prefill holds a slot.
HEARTBEATS_PER_S = 25
# So much longer a silence is that of an answer in the making, which nothing is streamed of: as many heartbeats as those
# that wait get took 2.5 % of its tokens.
PATIENCE = 3
# The engine's pause after a first token: what tritonserver, detokenizer and client need to bring it to the caller.
PAUSE_S = 0.002
# A token waits for the next one where the last came so soon: nobody reads faster. A response takes all steps together
# 1.5 to 2.5 ms of a core, the engine's step of one stream 11 ms.
SOON_S = 0.04
# How long to rest after sending, in times of what it took, and at most.
REST = 8
LONGEST_REST_S = 0.06


class Parcel:
    """One generation on its way out: `send(parcel, tokens, finish_reason)` delivers, `abandoned()` asks.

    `abandoned` is None for a caller that must be sent heartbeats.
    """

    def __init__(self, generation, streaming, send, abandoned):
        self.generation, self.streaming, self.send, self.abandoned = generation, streaming, send, abandoned
        self.sent = 0

    @property
    def is_in_prefill(self):
        """Whether it has a slot, and no token yet."""
        return self.generation.row is not None and not self.generation.output

    def silence(self, slow):
        """Return after how many seconds without a word it is looked after; `slow` is for those that wait."""
        if self.is_in_prefill or self.abandoned:
            return HEARTBEAT_S
        return slow if self.generation.row is None else PATIENCE * slow

    @property
    def may_wait(self):
        """Whether there is one token alone, and another will come soon."""
        times = self.generation.token_times[-2:]
        return len(self.generation.output) - self.sent == 1 and len(times) == 2 and times[1] - times[0] < SOON_S

    def due(self):
        """Return the tokens to be sent now, and the finish_reason if they are the last."""
        # The reason first: once it is there, no token comes any more.
        reason = self.generation.finish_reason
        if reason is None and not self.streaming:
            return [], None
        tokens = self.generation.output[self.sent :]
        self.sent += len(tokens)
        return tokens, reason


class Outbox:
    """All parcels under way. `cancel(generation)` is the engine's."""

    def __init__(self, cancel):
        self._cancel = cancel
        self._changed = Condition()  # guards what follows
        self._open = {}  # parcel -> when it was last sent something
        self._ready, self._urgent = {}, {}  # sets that keep their order
        self._rest_until = 0.0
        self._closed = False
        self._thread = Thread(target=self._run, name="outbox", daemon=True)
        self._thread.start()

    def add(self, parcel):
        """Take care of `parcel` from now on."""
        with self._changed:
            self._open[parcel] = time.monotonic()

    def drop(self, parcel):
        """Forget a parcel that was never sent."""
        with self._changed:
            self._open.pop(parcel, None)

    def notify(self, parcel):
        """Say that the parcel's generation has made progress; returns at once, but for a first token."""
        is_last = parcel.generation.finish_reason is not None
        if not (parcel.streaming or is_last):
            return
        if not (parcel.sent or is_last):
            self._deliver(parcel)
            time.sleep(PAUSE_S)
            return
        if not is_last and parcel.may_wait:
            return
        with self._changed:
            (self._urgent if is_last else self._ready)[parcel] = None
            if is_last or time.monotonic() >= self._rest_until:
                self._changed.notify()

    def close(self):
        """Send what is ready and stop."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self):
        looked = time.monotonic()
        is_over = False
        while not is_over:
            parcels, is_over = self._next()
            begun = time.monotonic()
            for parcel in parcels:
                self._deliver(parcel)
            now = time.monotonic()
            if parcels:
                self._rest_until = now + min(REST * (now - begun), LONGEST_REST_S)
            if now > looked + HEARTBEAT_S / 4:
                looked = now
                self._look_after_silent(now)

    def _next(self):
        """Wait a little for what is to be sent; return it, and whether it is the last."""
        with self._changed:
            rest = self._rest_until - time.monotonic()
            if not (self._closed or self._urgent or (self._ready and rest <= 0)):
                self._changed.wait(rest if rest > 0 else HEARTBEAT_S / 4)
            parcels, self._urgent = self._urgent, {}
            if self._closed or time.monotonic() >= self._rest_until:
                parcels, self._ready = parcels | self._ready, {}
            return parcels, self._closed

    def _look_after_silent(self, now):
        """Send heartbeats to those that heard nothing for long; ask direct callers whether they are still there."""
        with self._changed:
            slow = max(HEARTBEAT_S, sum(parcel.abandoned is None for parcel in self._open) / HEARTBEATS_PER_S)
            silent = [parcel for parcel, heard in self._open.items() if now - heard >= parcel.silence(slow)]
        for parcel in silent:
            if parcel.abandoned is None:
                self._deliver(parcel)
                continue
            if parcel.abandoned():
                self._cancel(parcel.generation)
            with self._changed:
                self._open[parcel] = now

    def _deliver(self, parcel):
        with self._changed:
            if parcel not in self._open:
                return  # its last word was said
            tokens, reason = parcel.due()
            if reason is None:
                self._open[parcel] = time.monotonic()
            else:
                del self._open[parcel]
        parcel.send(parcel, tokens, reason)
