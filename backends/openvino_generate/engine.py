"""The engine: hands requests to the library, steps it, and takes its tokens. Knows nothing of Triton.

What the library cannot say is said here: stop words of several tokens, a bounded queue, who was cancelled where.
"""

import time

from generation_config import arguments, require_carried
from log_probs import LogProb
from request import answer_limit
from scheduler import Scheduler
from stepping import Stepping
from terms import NO_TERMS

# The library keeps Python's lock through a step: here the threads that send, and take requests in, have their turn.
TURN_S = 0.0005


class Generation:
    """One answer to a request, at `place` among its answers: prompt and settings, and what has come of it.

    `output` are the token ids so far, without the end token, `log_probs` theirs where they are asked for;
    `finish_reason` is None until it is stop, length, timeout, cancelled or error. `arrived` and `token_times` are
    seconds of `time.monotonic`. `row` is the library's handle once it runs; `cached` stays 0, for prefixes are not
    shared.
    """

    def __init__(self, prompt, settings, on_progress=lambda generation: None, terms=NO_TERMS, place=0, grammar=None):
        self.prompt, self.settings, self.on_progress = prompt, settings, on_progress
        self.terms, self.place, self.grammar = terms, place, grammar
        self.output, self.log_probs, self.token_times = [], [], []
        self.finish_reason = self.row = self.limit = self.config = None
        self.arrived = time.monotonic()
        self.cached = 0

    def is_late(self, now):
        """Whether the time is over that its terms give it, or that they give it to start."""
        waited_us, terms = (now - self.arrived) * 1e6, self.terms
        return 0 < terms.timeout < waited_us or (self.row is None and 0 < terms.queue_timeout < waited_us)

    @property
    def prompt_length(self):
        """How many tokens the prompt has."""
        return len(self.prompt)


class Engine(Stepping):
    """A decoder, its queue, and the thread that steps them."""

    def __init__(self, decoder, max_queue_size, on_end=lambda generation: None, on_error=lambda error: None):
        self.decoder = decoder
        super().__init__(Scheduler(decoder.slots, max_queue_size), on_end, on_error)

    def submit(self, *generations):
        """Take in all of the generations, or none.

        Raises BadRequest: one does not fit a slot, or asks for what the library cannot do. Raises QueueFull.
        """
        for generation in generations:
            self._prepare(generation)
        with self._changed:
            self.scheduler.submit(*generations)
            self._changed.notify()

    def _prepare(self, generation):
        decoder, settings = self.decoder, generation.settings
        require_carried(settings, generation.terms)
        generation.limit = answer_limit(settings, generation.prompt, decoder.length, decoder.vocabulary)
        asked = arguments(settings, generation.limit, self._end_ids(generation), generation.place)
        generation.config = decoder.configured(asked)

    def counts(self):
        """Return what is counted since the beginning, by the metrics' names."""
        return {"engine_steps": self.steps}

    @property
    def _is_idle(self):
        return self.scheduler.is_idle and not self.decoder.is_busy

    def step(self):
        """Let cancelled and late requests go, start those that find a slot, take a token of every running one."""
        self.steps += 1
        self._drop_cancelled()
        self._drop_late()
        while generation := self._next():
            self._attempt([generation], self._start, generation)
        if self.decoder.is_busy:
            self._attempt(list(self.scheduler.running), self.decoder.step)
        for generation in list(self.scheduler.running):
            self._attempt([generation], self._take, generation)
        time.sleep(TURN_S)

    def _next(self):
        with self._changed:
            return self.scheduler.start()

    def _end_ids(self, generation):
        given = generation.settings.end_ids
        return self.decoder.end_ids if given is None else given

    def _start(self, generation):
        generation.row = self.decoder.start(generation.prompt, generation.config)

    def _take(self, generation):
        """Accept what the library has for `generation`, as far as it is wanted."""
        tokens, log_probs, over = self.decoder.read(generation.row)
        for token, value in zip(tokens, log_probs, strict=True):
            if generation.finish_reason is None:
                self._accept(generation, token, value)
        if over and generation.finish_reason is None:
            raise RuntimeError(f"the library gave up a request after {len(generation.output)} tokens")

    def _accept(self, generation, token, log_prob):
        """Append a token, and end the generation where it says so."""
        output, settings = generation.output, generation.settings
        if token in self._end_ids(generation):
            self._end(generation, "stop")
            return
        if settings.has_log_probs:
            # First: who sees a token finds it.
            none = [] if settings.top_logprobs == 0 else None
            generation.log_probs.append(LogProb(log_prob, none, none))
        output.append(token)
        generation.token_times.append(time.monotonic())
        stops = settings.stop_ids if len(output) >= settings.min_tokens else ()
        if any(tuple(output[-len(ids) :]) == ids for ids in stops):
            self._end(generation, "stop")
        elif len(output) == generation.limit:
            self._end(generation, "length")
        else:
            generation.on_progress(generation)

    def _release(self, generation, _reason):
        with self._changed:
            self.scheduler.remove(generation)
        if generation.row is not None:
            self.decoder.stop(generation.row)
