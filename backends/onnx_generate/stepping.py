"""What steps an engine: a thread of its own, requests that are let go between two steps, and failures that end theirs.

Both engines of the contract are made of it; how a step is done is their own.
"""

import time
from collections import deque
from threading import Condition, Thread


class Stepping:
    """An engine's thread. `steps` counts steps; `on_end(generation)` is called on it when a generation has ended.

    Who derives from it has `step()`, `_is_idle`, whether a step would do nothing, and `_release(generation, reason)`,
    which takes a generation from the `scheduler`; it calls `__init__` last, for the thread begins there.
    """

    def __init__(self, scheduler, on_end, on_error):
        self.scheduler, self.steps = scheduler, 0
        self._on_end, self._on_error = on_end, on_error
        self._cancelled = deque()
        self._changed = Condition()  # guards the scheduler
        self._closed = False
        self._thread = Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def cancel(self, generation):
        """End `generation` before the next step; nothing happens when it has ended."""
        with self._changed:
            self._cancelled.append(generation)
            self._changed.notify()

    def close(self):
        """Stop the thread after its current step."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self):
        while True:
            with self._changed:
                while self._is_idle and not self._cancelled and not self._closed:
                    self._changed.wait()
                if self._closed:
                    return
            self.step()

    def _attempt(self, generations, work, *arguments):
        """Do `work`; when it fails, the requests it was for have failed, and the engine goes on."""
        try:
            work(*arguments)
        except Exception as error:
            self._on_error(error)
            for generation in generations:
                if generation.finish_reason is None:
                    self._end(generation, "error")

    def _drop_cancelled(self):
        while self._cancelled:
            generation = self._cancelled.popleft()
            if generation.finish_reason is None:
                self._end(generation, "cancelled")

    def _drop_late(self):
        now = time.monotonic()
        with self._changed:
            late = [generation for generation in self.scheduler if generation.is_late(now)]
        for generation in late:
            self._end(generation, "timeout")

    def _end(self, generation, reason):
        self._release(generation, reason)
        generation.finish_reason = reason
        self._on_end(generation)
        generation.on_progress(generation)
