"""What comes back of a generation: answers of a server -> Delta, and what they add up to. Pure.

The tensor names are those of TensorRT-LLM's ensemble (1.2.1, `all_models/inflight_batcher_llm`), and beyond them
`finish_reason` and `logprobs`.
"""

import json
from dataclasses import dataclass, field
from typing import Any

from tritonyard._transport import Answer, Refused


@dataclass(frozen=True)
class LogProb:
    """One token of an answer: its text `token`, its bytes `raw`, and its `log_prob`, the logarithm of its probability.

    It is the natural one. A character may be cut into several tokens: the `raw` of all tokens together are the answer,
    their texts need not be. `top` are the likeliest at this place, as many as were asked for, the likeliest first.
    """

    token: str
    log_prob: float
    raw: bytes
    top: tuple["LogProb", ...] = ()


@dataclass(frozen=True)
class Delta:
    """What an answer grew by: `text` is new text, never the text so far.

    `num_input_tokens` and `num_output_tokens` count all that was read and written so far; None where the server does
    not count. `finish_reason` is None until the last one: then stop, length, cancelled or timeout. Of several answers
    (`n`) `index` says which one grew, from 0; all but `num_input_tokens` is of that one alone. `log_probs` are of the
    tokens that are new, `cum_log_prob` is the sum so far; None where they were not asked for.
    """

    text: str
    finish_reason: str | None
    num_input_tokens: int | None
    num_output_tokens: int | None
    index: int = 0
    log_probs: tuple[LogProb, ...] | None = None
    cum_log_prob: float | None = None


@dataclass(frozen=True)
class Usage:
    """How many tokens were read, `input_tokens`, and written, `output_tokens`; None where the server does not count.

    Of several answers those of all together.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None


@dataclass(frozen=True)
class Timing:
    """How long an answer took, in seconds by the caller's clock, from the sending of the request.

    `first_token` is when the first text came, `total` when the latest delta did. `between_tokens` is the mean between
    the first token and the latest, of several answers those of all. Each is None as long as there is none: a server
    that does not count tokens leaves the mean unknown, and an answer that was not streamed has but its total.
    """

    first_token: float | None = None
    total: float | None = None
    between_tokens: float | None = None


@dataclass(frozen=True)
class Choice:
    """One of the answers: its `text`, and its `finish_reason`, None while it grows.

    `log_probs` are of its tokens, `cum_log_prob` is their sum; None where they were not asked for.
    """

    text: str
    finish_reason: str | None
    log_probs: tuple[LogProb, ...] | None = None
    cum_log_prob: float | None = None


@dataclass(frozen=True)
class Generation:
    """A whole answer, its `text`, and its `finish_reason`: stop (its own end, or a text in `stop`) or length.

    Or cancelled, or timeout, where the server gave it up. `num_input_tokens` and `num_output_tokens` are None where the
    server does not count. `timing` has a total alone: nothing of the answer was seen before its end. `log_probs` are of
    its tokens, `cum_log_prob` is their sum; None where they were not asked for. Of several answers all this is the
    first one's but the tokens, which are counted together; `others` are the rest.
    """

    text: str
    finish_reason: str
    num_input_tokens: int | None
    num_output_tokens: int | None
    # Two answers that say the same are equal, however long they took.
    timing: Timing = field(default=Timing(), compare=False)
    log_probs: tuple[LogProb, ...] | None = None
    cum_log_prob: float | None = None
    others: tuple[Choice, ...] = ()

    @property
    def choices(self) -> tuple[Choice, ...]:
        """All answers, the first among them."""
        return (Choice(self.text, self.finish_reason, self.log_probs, self.cum_log_prob), *self.others)

    @property
    def usage(self) -> Usage:
        """How many tokens were read and written, as a stream tells it."""
        return Usage(self.num_input_tokens, self.num_output_tokens)


def deltas(answer: Answer) -> list[Delta]:
    """Read one answer: what one of the texts grew by, or all of several texts that were not streamed.

    These are counted together: all their tokens are told with the first. A heartbeat, which says nothing, is none.
    Raises Refused: it is not a generation's, or says that the server broke off.
    """
    try:
        texts, reasons = _listed(answer["text_output"]), _listed(answer["finish_reason"])
    except KeyError as error:
        words = f"the answer has no {error}, it has {', '.join(answer)}; the model does not generate text"
        raise Refused("INTERNAL", words) from None
    # TensorRT-LLM's LLM API counts nothing.
    read, written = answer.get("num_input_tokens"), answer.get("num_output_tokens")
    place, nothing = answer.get("sequence_index", 0), [None] * len(texts)
    contents, sums = (_listed(answer.get(name, nothing)) for name in ("logprobs", "cum_log_probs"))
    found = []
    try:
        for text, reason, content, cum_log_prob in zip(texts, reasons, contents, sums, strict=True):
            log_probs = None if content is None else tuple(map(_log_prob, json.loads(content)))
            if not (isinstance(text, str) and isinstance(reason, str) and _are_whole(read, written, place)):
                raise TypeError
            if reason == "error":
                raise Refused("INTERNAL", f"the model broke off after {written} tokens")
            if text or reason or log_probs:
                found.append(Delta(text, reason or None, read, written, place, log_probs, cum_log_prob))
            place, written = place + 1, written and 0
    except (ValueError, TypeError, KeyError, AttributeError):
        raise Refused("INTERNAL", f"the answer is not a generation's: {str(answer)[:200]}") from None
    return found


def answer_of(found: Delta) -> Answer:
    """Return the answer that `deltas` reads as `found`."""
    answer = {
        "text_output": found.text,
        "finish_reason": found.finish_reason or "",
        "num_input_tokens": found.num_input_tokens,
        "num_output_tokens": found.num_output_tokens,
        "sequence_index": found.index,
        "cum_log_probs": found.cum_log_prob,
    }
    return answer if found.log_probs is None else answer | {"logprobs": json.dumps([*map(_entry, found.log_probs)])}


def _listed(values: Any) -> list[Any]:
    """Return the values of an output, of which a single one stands by itself."""
    return values if isinstance(values, list) else [values]


def _log_prob(entry: dict[str, Any]) -> LogProb:
    """Read one token of the list `choices[].logprobs.content` of OpenAI's API."""
    top = tuple(map(_log_prob, entry.get("top_logprobs", ())))
    return LogProb(entry["token"], entry["logprob"], bytes(entry["bytes"]), top)


def _entry(found: LogProb) -> dict[str, Any]:
    top = [*map(_entry, found.top)]
    return {"token": found.token, "logprob": found.log_prob, "bytes": [*found.raw], "top_logprobs": top}


def _are_whole(*counts: Any) -> bool:
    return all(isinstance(count, int | None) for count in counts)


def unfinished() -> Refused:
    """Return what to raise where the answers end before one of them says why."""
    return Refused("INTERNAL", "the answer ended without a finish_reason")
