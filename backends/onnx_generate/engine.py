"""The engine: continuous batching over a Decoder. Requests join and leave between any two steps.

Knows nothing of Triton: whoever submits a Generation is told of its progress by a callback on the engine's thread, and
reads `output` and `finish_reason` whenever it likes. Tokens are appended before the reason is set.
"""

import time

import numpy as np
from prompt_lookup import PromptLookup
from request import answer_limit
from rows import Swap
from sampler import Sampler
from scheduler import QueueFull, Scheduler, Sequence
from stepping import Stepping
from terms import NO_TERMS

# Prompt tokens of a step at most, beside those that run.
CHUNK = 64


class Generation(Sequence):
    """One answer to a request, at `place` among its answers: prompt and settings, and what has come of it.

    `output` are the token ids so far, without the end token, `log_probs` theirs where they are asked for;
    `finish_reason` is None until it is stop, length, timeout, cancelled or error. `arrived` and `token_times` are
    seconds of `time.monotonic`.
    """

    def __init__(self, prompt, settings, on_progress=lambda generation: None, terms=NO_TERMS, place=0, grammar=None):
        super().__init__(prompt, terms)
        self.settings, self.on_progress = settings, on_progress
        self.place, self.grammar = place, grammar
        self.log_probs, self.token_times = [], []
        self.finish_reason = None
        self.arrived = time.monotonic()
        self.sampler = self.lookup = None

    def is_late(self, now):
        """Whether the time is over that its terms give it, or that they give it to start."""
        waited_us, terms = (now - self.arrived) * 1e6, self.terms
        return 0 < terms.timeout < waited_us or (0 < terms.queue_timeout < waited_us and not self.has_started)


class Engine(Stepping):
    """A decoder, its scheduler, and the thread that steps them.

    `drafted_tokens` counts what speculation tried, and `accepted_tokens` what came true of it.
    """

    def __init__(
        self, decoder, max_queue_size, chunk=CHUNK, on_end=lambda generation: None, on_error=lambda error: None
    ):
        self.decoder = decoder
        self.drafted_tokens = self.accepted_tokens = 0
        super().__init__(Scheduler(decoder.slots, max_queue_size, chunk), on_end, on_error)

    def submit(self, *generations):
        """Take in all of the generations, or none.

        Raises BadRequest: one does not fit a slot. Raises QueueFull.
        """
        for generation in generations:
            self._prepare(generation)
        with self._changed:
            for place, generation in enumerate(generations):
                try:
                    self.scheduler.submit(generation)
                except QueueFull:
                    for each in generations[:place]:
                        self.scheduler.remove(each)
                    raise
            self._changed.notify()

    def _prepare(self, generation):
        decoder, settings = self.decoder, generation.settings
        generation.limit = answer_limit(settings, generation.prompt, decoder.length, decoder.vocabulary)
        end_ids = decoder.end_ids if settings.end_ids is None else settings.end_ids
        generation.sampler = Sampler(settings, generation.prompt, end_ids, generation.place, generation.grammar)

    def counts(self):
        """Return what is counted since the beginning, by the metrics' names."""
        return {
            "engine_steps": self.steps,
            "drafted_tokens": self.drafted_tokens,
            "accepted_tokens": self.accepted_tokens,
            "preemptions": self.scheduler.preemptions,
        }

    @property
    def _is_idle(self):
        return self.scheduler.is_idle

    def step(self):
        """Let cancelled and late requests go, prefill some of the prompts, decode one token of each running request."""
        self.steps += 1
        self._drop_cancelled()
        self._drop_late()
        begun = time.monotonic()
        budget = left = self.scheduler.budget
        while left and (chunk := self._next_chunk(left)):
            self._attempt([chunk.sequence], self._prefill, chunk)
            left -= chunk.stop - chunk.start
        prefilled = time.monotonic()
        running = list(self.scheduler.running)
        if left == budget and (draft := self._draft(running)):
            self._attempt(running, self._verify, running[0], draft)
            return  # of what steps take it tells nothing
        if running:
            self._attempt(running, self._decode, running)
        self.scheduler.pace.stepped(budget - left, prefilled - begun, time.monotonic() - prefilled if running else 0.0)

    def _next_chunk(self, budget):
        with self._changed:
            return self.scheduler.next_chunk(budget)

    def _prefill(self, chunk):
        generation = chunk.sequence
        self._move(chunk.moves)
        tokens = np.array(generation.prompt[chunk.start : chunk.stop], np.int64)
        logits = self.decoder.prefill(generation.row, tokens)
        with self._changed:
            self.scheduler.prefilled(chunk)
        if not chunk.is_last:
            return
        if not generation.output:
            self._accept(generation, generation.sampler.next(logits))
            self._tell(generation)
        if generation.finish_reason is None:
            with self._changed:
                moves = self.scheduler.join()
            self._move(moves)  # last: it takes milliseconds for which the first token need not wait

    def _decode(self, generations):
        """Append the next token of each answer to its row; where that was the last, the one that follows is sampled.

        Who was interrupted has more tokens than its row.
        """
        tokens = [generation.output[generation.decoded] for generation in generations]
        logits = self.decoder.decode(np.array(tokens, np.int64))
        self._count_decoded()
        best = logits.argmax(axis=1).tolist()
        for generation, row, token in zip(generations, logits, best, strict=True):
            if generation.decoded == len(generation.output):
                self._attempt([generation], self._sample, generation, row, token)
                self._tell(generation)

    def _draft(self, running):
        """Return what may be the next tokens of the one that runs; none where others run, or it is being caught up."""
        if len(running) != 1 or not self.decoder.verified:
            return []
        (generation,) = running
        room = self.decoder.length - self.decoder.lengths[generation.row]
        if room < self.decoder.verified or generation.decoded < len(generation.output) - 1:
            return []
        if generation.lookup is None:
            generation.lookup = PromptLookup(generation.prompt, generation.output, self.decoder.verified - 1)
        return generation.lookup.draft()

    def _verify(self, generation, draft):
        """Append the last token and those of `draft` to the row, as far as they are what is sampled: at least one."""
        row, before, had = generation.row, int(self.decoder.lengths[generation.row]), len(generation.output)
        logits = self.decoder.verify(row, np.array([generation.output[-1], *draft], np.int64))
        self.drafted_tokens += len(draft)
        for place, drafted in enumerate([*draft, None]):
            self._count_decoded()
            self._sample(generation, logits[place], int(logits[place].argmax()))
            if generation.finish_reason or generation.output[-1] != drafted:
                break
        self.accepted_tokens += place
        if generation.finish_reason is None:
            self.decoder.copy(row, row, before + place + 1)
            generation.lookup.verified(len(generation.output) - had)
        self._tell(generation)  # once: what is told apart is sent apart

    def _count_decoded(self):
        with self._changed:
            self.scheduler.decoded()

    def _sample(self, generation, logits, best):
        self._accept(generation, best if generation.sampler.is_plain else generation.sampler.next(logits))

    def _accept(self, generation, token):
        """Append a sampled token, and end the generation where it says so."""
        output, settings, over = generation.output, generation.settings, generation.sampler.over
        if token in generation.sampler.end_ids:
            self._end(generation, over or "stop")
            return
        if settings.has_log_probs:
            generation.log_probs.append(generation.sampler.log_prob)  # first: who sees a token finds it
        output.append(token)
        generation.token_times.append(time.monotonic())
        stops = settings.stop_ids if len(output) >= settings.min_tokens else ()
        if over or any(tuple(output[-len(ids) :]) == ids for ids in stops):
            self._end(generation, over or "stop")
        elif len(output) == generation.limit:
            self._end(generation, "length")

    def _tell(self, generation):
        """Tell of the progress of a generation that goes on; of its end `_end` has told."""
        if generation.finish_reason is None:
            generation.on_progress(generation)

    def _release(self, generation, reason):
        with self._changed:
            moves = self.scheduler.remove(generation, is_broken=reason == "error")
        self._move(moves)
        if reason in ("stop", "length"):
            self.scheduler.pace.ended(len(generation.output), generation.limit)

    def _move(self, moves):
        for move in moves:
            (self.decoder.swap if isinstance(move, Swap) else self.decoder.copy)(*move)
