"""The outbox: carries what generations have produced to their callers, from a thread of its own.

While the engine computes the next step, the tokens of the last one are on their way. What a slow consumer has not yet
been sent piles up in its generation's `output` and goes as one response.

A caller that sits behind another step (it gave a `stream_context`) cannot be seen to leave by this model: it gets an
empty heartbeat while there is nothing to send, so that the step that can see it is called. A direct caller is asked.
"""

import time
from queue import Empty, SimpleQueue
from threading import Lock, Thread

HEARTBEAT_S = 0.1
# However many wait, heartbeats may not take the cores from those that run.
HEARTBEATS_PER_S = 200


class Parcel:
    """One generation on its way out: `send(parcel, tokens, finish_reason)` delivers, `abandoned()` asks.

    `abandoned` is None for a caller that must be sent heartbeats.
    """

    def __init__(self, generation, streaming, send, abandoned):
        self.generation, self.streaming, self.send, self.abandoned = generation, streaming, send, abandoned
        self.sent = 0
        self.is_queued = False

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
        self._ready = SimpleQueue()
        self._lock = Lock()
        self._open = {}
        self._thread = Thread(target=self._run, name="outbox", daemon=True)
        self._thread.start()

    def add(self, parcel):
        """Take care of `parcel` from now on."""
        with self._lock:
            self._open[parcel] = time.monotonic()

    def drop(self, parcel):
        """Forget a parcel that was never sent."""
        with self._lock:
            self._open.pop(parcel, None)

    def notify(self, parcel):
        """Say that the parcel's generation has made progress; returns at once."""
        if (parcel.streaming or parcel.generation.finish_reason) and not parcel.is_queued:
            parcel.is_queued = True
            self._ready.put(parcel)

    def close(self):
        """Send what is ready and stop."""
        self._ready.put(None)
        self._thread.join()

    def _run(self):
        looked = time.monotonic()
        while True:
            try:
                parcel = self._ready.get(timeout=HEARTBEAT_S / 4)
                if parcel is None:
                    return
                # Before looking: what comes after that queues it again.
                parcel.is_queued = False
                self._deliver(parcel, *parcel.due())
            except Empty:
                pass
            if time.monotonic() > looked + HEARTBEAT_S / 4:
                looked = time.monotonic()
                self._look_after_silent(looked)

    def _look_after_silent(self, now):
        """Send heartbeats to those that heard nothing for long; ask direct callers whether they are still there."""
        with self._lock:
            period = max(HEARTBEAT_S, len(self._open) / HEARTBEATS_PER_S)
            silent = [parcel for parcel, heard in self._open.items() if now - heard >= period]
        for parcel in silent:
            if parcel.abandoned is None:
                self._deliver(parcel, *parcel.due())
                continue
            if parcel.abandoned():
                self._cancel(parcel.generation)
            with self._lock:
                self._open[parcel] = now

    def _deliver(self, parcel, tokens, reason):
        with self._lock:
            if parcel not in self._open:
                return  # its last word was said
            if reason is None:
                self._open[parcel] = time.monotonic()
            else:
                del self._open[parcel]
        parcel.send(parcel, tokens, reason)
