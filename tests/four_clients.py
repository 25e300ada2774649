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
