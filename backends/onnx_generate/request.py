"""What one request asks of the engine, checked. Pure: no numpy, no Triton."""

import math
from dataclasses import dataclass


class BadRequest(Exception):
    """A request that the engine does not take; the message is the caller's answer."""


@dataclass(frozen=True)
class Settings:
    """How tokens are chosen and when to stop; the names are TensorRT-LLM's (`SamplingConfig`), the checks ours.

    Greedy unless temperature, top_k or top_p is given. `top_k` 0 is no limit. `stop_ids` are token sequences;
    `max_tokens` None is as many as the slot holds. Presence and frequency penalties count the answer, the repetition
    penalty counts the prompt too.
    """

    max_tokens: int | None = None
    min_tokens: int = 0
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    end_ids: tuple[int, ...] | None = None
    stop_ids: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self):
        """Raise BadRequest on a value out of range, NaN and infinity among them."""
        for name, allowed, fits in (
            ("max_tokens", "1 or more", lambda value: value >= 1),
            ("min_tokens", "0 or more", lambda value: value >= 0),
            ("temperature", "a number of 0 or more", lambda value: value >= 0),
            ("top_k", "0 (no limit) or more", lambda value: value >= 0),
            ("top_p", "a number between 0 and 1", lambda value: 0 <= value <= 1),
            ("repetition_penalty", "a number above 0", lambda value: value > 0),
            ("presence_penalty", "a finite number", lambda value: True),
            ("frequency_penalty", "a finite number", lambda value: True),
        ):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and fits(value)):
                raise BadRequest(f"{name} is {value:g}; give {allowed}")
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise BadRequest(f"min_tokens is {self.min_tokens}, more than max_tokens = {self.max_tokens}; lower it")

    @property
    def is_greedy(self):
        """Whether the most probable token is always taken."""
        asked = (self.temperature, self.top_k, self.top_p)
        return all(value is None for value in asked) or 0 in (self.temperature, self.top_p) or self.top_k == 1

    @property
    def has_penalties(self):
        """Whether what was said before changes what comes next."""
        return (self.repetition_penalty, self.presence_penalty, self.frequency_penalty) != (1.0, 0.0, 0.0)


def answer_limit(settings, prompt, length, vocabulary):
    """Return how many tokens the answer to `prompt` (token ids) may have in a slot of `length` tokens.

    Raises BadRequest: the prompt is empty, holds an id outside the vocabulary, or leaves no room for what is asked.
    """
    if not prompt:
        raise BadRequest("input_ids is empty; send at least one token")
    if not 0 <= min(prompt) <= max(prompt) < vocabulary:
        wrong = next(token for token in prompt if not 0 <= token < vocabulary)
        raise BadRequest(f"input_ids holds {wrong}; the vocabulary has the ids 0 to {vocabulary - 1}")
    room = length - len(prompt)
    if room < 1:
        raise BadRequest(f"the prompt has {len(prompt)} tokens; a slot holds {length}, answer included; shorten it")
    if (settings.max_tokens or 1) > room:
        raise BadRequest(
            f"max_tokens is {settings.max_tokens}, but a prompt of {len(prompt)} tokens leaves room for {room} of the "
            f"{length} that a slot holds; lower it, or leave it out"
        )
    return settings.max_tokens or room
