"""What has come of a generation so far: text, tokens and seconds, of one answer or of several."""

import time

from tritonyard._generation import Choice, Delta, Generation, LogProb, Timing, Usage
from tritonyard._transport import Refused


class _Answer:
    """One of the answers while it grows."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.log_probs: list[LogProb] | None = None
        self.cum_log_prob: float | None = None
        self.finish_reason: str | None = None
        self.num_output_tokens: int | None = None

    def grow(self, found: Delta) -> None:
        if found.text:
            self.texts.append(found.text)
        if found.log_probs is not None:
            self.log_probs = self.log_probs or []
            self.log_probs += found.log_probs
            self.cum_log_prob = found.cum_log_prob
        self.finish_reason, self.num_output_tokens = found.finish_reason, found.num_output_tokens

    def choice(self) -> Choice:
        log_probs = None if self.log_probs is None else tuple(self.log_probs)
        return Choice("".join(self.texts), self.finish_reason, log_probs, self.cum_log_prob)


class Growth:
    """What a stream tells of its answers, while its loop runs and after it; all of it is empty before.

    `count` is how many answers were asked for.
    """

    def __init__(self, count: int = 1) -> None:
        self._growing = [_Answer() for _ in range(count)]
        self._num_input_tokens: int | None = None
        self._sent = 0.0
        self._seen: float | None = None
        # When the first text came and when the count of tokens grew last, each with that count.
        self._first: tuple[float, int] | None = None
        self._grown: tuple[float, int] | None = None

    @property
    def text(self) -> str:
        """The text so far, of several answers the first one's."""
        return "".join(self._growing[0].texts)

    @property
    def finish_reason(self) -> str | None:
        """Why the answer ended: stop, length, cancelled or timeout; None before its last delta, and without one."""
        return self._growing[0].finish_reason

    @property
    def choices(self) -> tuple[Choice, ...]:
        """All answers so far, with their log probabilities where they were asked for."""
        return tuple(each.choice() for each in self._growing)

    @property
    def usage(self) -> Usage:
        """How many tokens were read and written so far."""
        counts = [each.num_output_tokens for each in self._growing if each.num_output_tokens is not None]
        return Usage(self._num_input_tokens, sum(counts) if counts else None)

    @property
    def timing(self) -> Timing:
        """How long the answer took so far."""
        if self._seen is None:
            return Timing()
        total = self._seen - self._sent
        if self._first is None:
            return Timing(total=total)
        first, count = self._first
        grown, counted = self._grown or self._first
        between = (grown - first) / (counted - count) if counted > count else None
        return Timing(first - self._sent, total, between)

    @property
    def _is_whole(self) -> bool:
        return all(each.finish_reason for each in self._growing)

    def _begin(self) -> None:
        """Note that the request is being sent."""
        self._sent = time.monotonic()

    def _grow(self, found: Delta) -> Delta:
        """Take note of the next delta, and return it; raise Refused where it is of an answer that nobody asked for."""
        if not 0 <= found.index < len(self._growing):
            raise Refused("INTERNAL", f"{len(self._growing)} answers were asked for, and number {found.index} came")
        self._growing[found.index].grow(found)
        self._num_input_tokens = found.num_input_tokens
        self._seen = time.monotonic()
        count = self.usage.output_tokens or 0
        if found.text:
            self._first = self._first or (self._seen, count)
        if count > (self._grown[1] if self._grown else 0):
            self._grown = (self._seen, count)
        return found


def generation(answer: Growth) -> Generation:
    """Return the whole of an answer that was not streamed and has ended."""
    (first, *others), usage, timing = answer.choices, answer.usage, Timing(total=answer.timing.total)
    return Generation(
        first.text,
        str(first.finish_reason),
        usage.input_tokens,
        usage.output_tokens,
        timing,
        first.log_probs,
        first.cum_log_prob,
        tuple(others),
    )
