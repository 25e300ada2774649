"""How fast the engine goes, measured: how many prompt tokens a step may carry, and when a request would start. Pure.

A step that prefills keeps those that run waiting. So its prompt tokens are so many that it takes STRETCH times as long
as one that only decodes, as far as the last steps tell; but LEAST at least, which with few running requests is more.
"""

from heapq import heapify, heappop, heappush
from math import inf

# What a step that prefills may take, in times of one that does not.
STRETCH = 2.0
# What a pass costs beyond its tokens, in tokens: on two cores 64 prompt tokens take 75 ms at once, 100 ms by 16, 130 ms
# by 8 (SmolLM2-135M, int8).
PASS = 8
# Fewer than these cost too much.
LEAST = 12
# The weight of the newest of the measured values in their running mean.
NEWEST = 0.2
# What one step that was held up, by whatever else the machine does, counts at most, in times of the mean.
HELD_UP = 2.0


class Mean:
    """A running mean that forgets; None before its first value. One above `most` times the mean counts as that much."""

    def __init__(self, most=inf):
        self.value, self._most = None, most

    def add(self, value):
        """Take the newest value in."""
        if self.value is None:
            self.value = value
        else:
            self.value += NEWEST * (min(value, self._most * self.value) - self.value)


class Pace:
    """What steps took, in seconds; `chunk` prompt tokens is the most of a step."""

    def __init__(self, chunk):
        self.chunk = chunk
        self._decode, self._token, self._step = (Mean(most=HELD_UP) for _ in range(3))
        self._used = Mean()  # the part of what an answer may have that answers have

    def stepped(self, tokens, prefill_s, decode_s):
        """Note a step: its prompt tokens, the seconds that they took, and those of decoding, 0 where none ran."""
        if decode_s:
            self._decode.add(decode_s)
        # PASS is right for some machines: what a few tokens take beside others counts once it is known.
        if tokens and (decode_s or self._token.value is None):
            self._token.add(prefill_s / (tokens + PASS))
        self._step.add(prefill_s + decode_s)

    def ended(self, tokens, limit):
        """Note that an answer that could have had `limit` tokens has `tokens`."""
        self._used.add(tokens / limit)

    def budget(self, is_free):
        """Return how many prompt tokens the next step may carry; `is_free` where they are kept back by nobody."""
        if is_free or None in (self._decode.value, self._token.value):
            return self.chunk
        return min(self.chunk, max(LEAST, int((STRETCH - 1) * self._decode.value / self._token.value) - PASS))

    def start_s(self, left, ahead, chunk):
        """Return in how many seconds one more request would start; None when too little was measured.

        `left` is (tokens had, limit) of the request in each slot, (0, 0) for a free one, and `ahead` is (prompt tokens,
        limit) of each that starts before: they take slots in turn as these become free, and are prefilled one by one,
        `chunk` tokens a step.
        """
        if self._used.value is None:
            return None
        used = self._used.value
        free, prefilled = [limit * used - had for had, limit in left], 0.0
        heapify(free)
        for prompt, limit in ahead:
            prefilled = max(heappop(free), prefilled) + prompt / chunk
            heappush(free, prefilled + limit * used)
        return max(free[0], prefilled) * self._step.value
