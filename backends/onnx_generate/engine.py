"""The engine: continuous batching over a Decoder. Requests join and leave between any two steps.

Knows nothing of Triton: whoever submits a Generation is told of its progress by a callback on the engine's thread, and
reads `output` and `finish_reason` whenever it likes. Tokens are appended before the reason is set.
"""

import time
from collections import deque
from threading import Condition, Thread

import numpy as np
from request import answer_limit
from sampler import Sampler
from scheduler import Scheduler, Sequence

# Prompt tokens a step. More is hardly faster (1,030 tokens/s at 64, 1,040 at 256) and stalls running requests longer.
CHUNK = 64


class Generation(Sequence):
    """One request: its prompt and settings, and what has come of it.

    `output` are the token ids so far, without the end token; `finish_reason` is None until it is stop, length,
    cancelled or error. `arrived` and `token_times` are seconds of `time.monotonic`.
    """

    def __init__(self, prompt, settings, on_progress=lambda generation: None):
        super().__init__(len(prompt))
        self.prompt, self.settings, self.on_progress = prompt, settings, on_progress
        self.output, self.token_times = [], []
        self.finish_reason = None
        self.arrived = time.monotonic()
        self.limit = self.sampler = None


class Engine:
    """A decoder, its scheduler, and the thread that steps them.

    `steps` counts steps. `on_end(generation)` is called on the engine's thread when a generation has ended.
    """

    def __init__(
        self, decoder, max_queue_size, chunk=CHUNK, on_end=lambda generation: None, on_error=lambda error: None
    ):
        self.decoder, self.steps = decoder, 0
        self.scheduler = Scheduler(decoder.slots, max_queue_size, chunk)
        self._on_end, self._on_error = on_end, on_error
        self._cancelled = deque()
        self._changed = Condition()  # guards the scheduler
        self._closed = False
        self._thread = Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(self, generation):
        """Take a generation in.

        Raises BadRequest: it does not fit a slot. Raises QueueFull.
        """
        decoder, settings = self.decoder, generation.settings
        generation.limit = answer_limit(settings, generation.prompt, decoder.length, decoder.vocabulary)
        end_ids = decoder.end_ids if settings.end_ids is None else settings.end_ids
        generation.sampler = Sampler(settings, generation.prompt, end_ids, decoder.vocabulary)
        with self._changed:
            self.scheduler.submit(generation)
            self._changed.notify()

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
                while self.scheduler.is_idle and not self._cancelled and not self._closed:
                    self._changed.wait()
                if self._closed:
                    return
            self.step()

    def step(self):
        """Let cancelled requests go, prefill a chunk's worth of prompts, decode one token of every running request."""
        self.steps += 1
        self._drop_cancelled()
        budget = self.scheduler.chunk
        while budget and (chunk := self._next_chunk(budget)):
            self._attempt([chunk.sequence], self._prefill, chunk)
            budget -= chunk.stop - chunk.start
        if running := list(self.scheduler.running):
            self._attempt(running, self._decode, running)

    def _attempt(self, generations, work, argument):
        """Do `work`; when it fails, the requests it was for have failed, and the engine goes on."""
        try:
            work(argument)
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

    def _next_chunk(self, budget):
        with self._changed:
            chunk = self.scheduler.next_chunk(budget)
        if chunk and chunk.start == 0:
            self.decoder.clear(chunk.sequence.row)
        return chunk

    def _prefill(self, chunk):
        generation = chunk.sequence
        tokens = np.array(generation.prompt[chunk.start : chunk.stop], np.int64)
        logits = self.decoder.prefill(generation.row, tokens)
        with self._changed:
            self._move(self.scheduler.prefilled(chunk))
        if chunk.is_last:
            self._accept(generation, generation.sampler.next(logits))

    def _decode(self, generations):
        logits = self.decoder.decode(np.array([generation.output[-1] for generation in generations], np.int64))
        best = logits.argmax(axis=1).tolist()
        for generation, row, token in zip(generations, logits, best, strict=True):
            self._accept(generation, token if generation.sampler.is_plain else generation.sampler.next(row))

    def _accept(self, generation, token):
        """Append a sampled token, and end the generation where it says so."""
        output, settings = generation.output, generation.settings
        if token in generation.sampler.end_ids:
            self._end(generation, "stop")
            return
        output.append(token)
        generation.token_times.append(time.monotonic())
        stops = settings.stop_ids if len(output) >= settings.min_tokens else ()
        if any(tuple(output[-len(ids) :]) == ids for ids in stops):
            self._end(generation, "stop")
        elif len(output) == generation.limit:
            self._end(generation, "length")
        else:
            generation.on_progress(generation)

    def _end(self, generation, reason):
        with self._changed:
            self._move(self.scheduler.remove(generation))
        generation.finish_reason = reason
        self._on_end(generation)
        generation.on_progress(generation)

    def _move(self, move):
        if move:
            self.decoder.move(move.source, move.target)
