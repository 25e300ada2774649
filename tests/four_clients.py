"""{sync, async} x {gRPC, HTTP} side by side: what comes of one request by each, and that it is the same."""

import re
from typing import NamedTuple

from client_kinds import CLIENTS

from tritonyard import TritonyardError

# What differs from client to client, or from call to call.
OWN = re.compile(r"\w+://[\d.:]+\d|\[request id: \w+\] ")


class Failure(NamedTuple):
    """An error, without what is one client's or one request's own."""

    kind: type
    model: str | None
    words: str
    attempts: int
    has_request_id: bool


def opened(stack, **urls):
    """A client of each transport, by its name."""
    return {
        f"{kind} {protocol}": stack.enter_context(CLIENTS[kind](url, timeout=60))
        for kind in CLIENTS
        for protocol, url in urls.items()
    }


def outcome(ask, *arguments):
    """What came of it: a result, or a Failure."""
    try:
        return ask(*arguments)
    except TritonyardError as error:
        words = OWN.sub("", str(error))
        return Failure(type(error), error.model, words, error.attempts, error.request_id is not None)


def same(outcomes):
    """The one outcome that all have."""
    first, *_ = outcomes.values()
    assert outcomes == dict.fromkeys(outcomes, first)
    return first


def by_all(four, ask):
    """The one outcome of `ask`, asked of each client."""
    return same({name: outcome(ask, client) for name, client in four.items()})


def by_all_and_streamed(four, ask):
    """The outcome of a generation by each client, streamed and not: text, finish reason, tokens in and out."""

    def whole(client):
        answer = ask(client, False)
        return answer.text, answer.finish_reason, answer.num_input_tokens, answer.num_output_tokens

    def streamed(client):
        *deltas, last = ask(client, True)
        assert {delta.finish_reason for delta in deltas} <= {None}
        text = "".join(delta.text for delta in [*deltas, last])
        return text, last.finish_reason, last.num_input_tokens, last.num_output_tokens

    return {
        f"{name} {how.__name__}": outcome(how, client) for name, client in four.items() for how in (whole, streamed)
    }


def choices_by_all_and_streamed(four, ask):
    """The answers of a generation by each client, streamed and not: of each its text, finish reason and log probs."""

    def whole(client):
        return [
            _told(each.text, each.finish_reason, each.log_probs, each.cum_log_prob)
            for each in ask(client, False).choices
        ]

    def streamed(client):
        grown = {}
        for delta in ask(client, True):
            grown.setdefault(delta.index, []).append(delta)
        return [_joined(grown[index]) for index in range(len(grown))]

    return {
        f"{name} {how.__name__}": outcome(how, client) for name, client in four.items() for how in (whole, streamed)
    }


def _joined(deltas):
    text, last = "".join(delta.text for delta in deltas), deltas[-1].finish_reason
    known = [delta for delta in deltas if delta.log_probs is not None]
    log_probs = tuple(each for delta in known for each in delta.log_probs) if known else None
    return _told(text, last, log_probs, known[-1].cum_log_prob if known else None)


def _told(text, reason, log_probs, cum_log_prob):
    if log_probs is not None:
        assert abs(cum_log_prob - sum(each.log_prob for each in log_probs)) < 1e-3
    return text, reason, log_probs
