"""What one request asks of the engine, checked. Pure: no numpy, no Triton."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain

# A temperature below this is greedy: what it would draw is the largest logit, and dividing by it overflows.
LEAST_TEMPERATURE = 1e-5
# The most likely tokens that are told of each step at most, as OpenAI's API has it.
MOST_LIKELY = 20


class BadRequest(Exception):
    """A request that the engine does not take; the message is the caller's answer."""


@dataclass(frozen=True)
class Settings:
    """How tokens are chosen and when to stop; the names are TensorRT-LLM's (`SamplingConfig`), the checks ours.

    Greedy unless temperature, top_k, top_p or min_p is given. `top_k` 0 is no limit. `logit_bias` is added to the
    logits of its ids. `stop_ids` and `bad_ids` are token sequences: one ends the answer, the other is never completed.
    `max_tokens` None is as many as the slot holds. Presence and frequency penalties count the answer, the repetition
    penalty counts the prompt too. `top_logprobs`, a number of most likely tokens to tell, asks for log probabilities as
    `return_log_probs` does. `guide` is what `grammar.Grammars` reads: the kind, and what is to be followed.
    """

    max_tokens: int | None = None
    min_tokens: int = 0
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    end_ids: tuple[int, ...] | None = None
    stop_ids: tuple[tuple[int, ...], ...] = ()
    bad_ids: tuple[tuple[int, ...], ...] = ()
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    return_log_probs: bool = False
    top_logprobs: int | None = None
    guide: tuple[bytes, bytes] | None = None

    def __post_init__(self):
        """Raise BadRequest on a value out of range, NaN and infinity among them."""
        for name, allowed, fits in (
            ("max_tokens", "1 or more", lambda value: value >= 1),
            ("min_tokens", "0 or more", lambda value: value >= 0),
            ("temperature", "a number of 0 or more", lambda value: value >= 0),
            ("top_k", "0 (no limit) or more", lambda value: value >= 0),
            ("top_p", "a number between 0 and 1", lambda value: 0 <= value <= 1),
            ("min_p", "a number between 0 and 1", lambda value: 0 <= value <= 1),
            ("top_logprobs", f"0 to {MOST_LIKELY}", lambda value: 0 <= value <= MOST_LIKELY),
            ("repetition_penalty", "a number above 0", lambda value: value > 0),
            ("presence_penalty", "a finite number", lambda value: True),
            ("frequency_penalty", "a finite number", lambda value: True),
        ):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and fits(value)):
                raise BadRequest(f"{name} is {value:g}; give {allowed}")
        for token, bias in self.logit_bias.items():
            if not math.isfinite(bias):
                raise BadRequest(f"the logit bias of token {token} is {bias:g}; give a finite number")
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise BadRequest(f"min_tokens is {self.min_tokens}, more than max_tokens = {self.max_tokens}; lower it")

    @property
    def is_greedy(self):
        """Whether the most probable token is always taken."""
        asked = (self.temperature, self.top_k, self.top_p, self.min_p)
        is_cold = self.temperature is not None and self.temperature < LEAST_TEMPERATURE
        return is_cold or all(value is None for value in asked) or self.top_p == 0 or self.top_k == 1

    @property
    def has_log_probs(self):
        """Whether the log probability of each token is asked for."""
        return self.return_log_probs or self.top_logprobs is not None

    @property
    def has_penalties(self):
        """Whether what was said before changes what comes next."""
        return (self.repetition_penalty, self.presence_penalty, self.frequency_penalty) != (1.0, 0.0, 0.0)


def answer_limit(settings, prompt, length, vocabulary):
    """Return how many tokens the answer to `prompt` (token ids) may have in a slot of `length` tokens.

    Raises BadRequest: the prompt is empty, leaves no room for what is asked, or an id is outside the vocabulary.
    """
    if not prompt:
        raise BadRequest("input_ids is empty; send at least one token")
    named = {
        "input_ids": prompt,
        "end_id": settings.end_ids or (),
        "bad_words_list": chain(*settings.bad_ids),
        "embedding_bias": settings.logit_bias,
    }
    for name, ids in named.items():
        for token in ids:
            if not 0 <= token < vocabulary:
                raise BadRequest(f"{name} holds {token}; the vocabulary has the ids 0 to {vocabulary - 1}")
    room = length - len(prompt)
    if room < 1:
        raise BadRequest(f"the prompt has {len(prompt)} tokens; a slot holds {length}, answer included; shorten it")
    if (settings.max_tokens or 1) > room:
        raise BadRequest(
            f"max_tokens is {settings.max_tokens}, but a prompt of {len(prompt)} tokens leaves room for {room} of the "
            f"{length} that a slot holds; lower it, or leave it out"
        )
    return settings.max_tokens or room
