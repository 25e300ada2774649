"""What can go wrong between a caller and a Triton server.

    TritonyardError           the root; every error of this package is one
    ├── InvalidRequest        what was asked cannot be sent, or the server refused it as it is
    ├── ModelNotFound         the server does not serve a model of that name
    ├── AccessDenied          the server wants a key or a token that was not sent
    ├── DeadlineExceeded      the time budget of the call ran out before the answer came
    ├── ServerUnavailable     nobody answers: refused, connection lost in the middle, or shutting down
    ├── ServerOverloaded      the server's queue is full; the same request may pass later
    ├── ServerFailed          the server broke while answering, or its answer makes no sense
    └── ClientClosed          the client was closed before or during the call

A message is subject, value, fact and what to do next. No exception of gRPC, aiohttp or http.client leaves
this package.
"""

import re
from dataclasses import dataclass

# A gRPC status by name, or an HTTP code; None where the server gave a text alone. A connection that gave no answer at
# all carries a gRPC name on both.
Status = str | int | None


class TritonyardError(Exception):
    """The root of this package's errors.

    Attributes, each None where it is not known: `model` and `url` asked, `status` (gRPC status name or HTTP code) and
    `words`, what the server itself said; `request_id`, by which the server's log knows the request; `retry_after`, the
    seconds that the server asks to be left alone. `attempts` is how many times the request was sent, or tried to be: 0
    where it never came to that.
    """

    mend = ""

    def __init__(
        self,
        fact: str,
        *,
        model: str | None = None,
        url: str | None = None,
        status: Status = None,
        words: str | None = None,
        request_id: str | None = None,
        attempts: int = 0,
        retry_after: float | None = None,
    ):
        super().__init__(fact)
        self.model, self.url, self.status, self.words = model, url, status, words
        self.request_id, self.attempts, self.retry_after = request_id, attempts, retry_after

    def __str__(self) -> str:
        subject = " at ".join(filter(None, [f"model '{self.model}'" if self.model else "", self.url]))
        said = f"{subject}: {self.args[0]}" if subject else str(self.args[0])
        if self.attempts > 1:
            said += f", after {self.attempts} attempts"
        return f"{said}; {self.mend}" if self.mend else said


class InvalidRequest(TritonyardError):
    """What was asked cannot be sent, or the server refused it as it is."""


class ModelNotFound(TritonyardError):
    """The server does not serve a model of that name."""

    mend = "check the name, or load the model"


class AccessDenied(TritonyardError):
    """The server wants a key or a token that was not sent."""

    mend = "ask the server's operator for access"


class DeadlineExceeded(TritonyardError):
    """The time budget of the call ran out before the answer came."""

    mend = "give the call a longer timeout, or send less at once"


class ServerUnavailable(TritonyardError):
    """Nobody answers: refused, connection lost in the middle, or shutting down."""

    mend = "check that the server runs, and that scheme and port belong together"


class ServerOverloaded(TritonyardError):
    """The server's queue is full; the same request may pass later."""

    mend = "try again later, or lower concurrency"


class ServerFailed(TritonyardError):
    """The server broke while answering, or its answer makes no sense."""

    mend = "the server's log says more"


class ClientClosed(TritonyardError):
    """The client was closed before or during the call."""

    mend = "make a new client"


@dataclass(frozen=True)
class Rule:
    """One row of the table: `kind` for any of `statuses`, where the server's words match `words` if given."""

    kind: type[TritonyardError]
    statuses: tuple[Status, ...]
    words: str = ""


# The first row that fits wins. Triton has few statuses, so that for some only the words tell the cases apart.
RULES = (
    Rule(
        ServerOverloaded,
        ("UNAVAILABLE", "UNKNOWN", 503, 500, 400, None),
        r"Exceeds maximum queue size|queue is full|Request timeout expired",
    ),
    Rule(
        ModelNotFound,
        ("UNAVAILABLE", "INVALID_ARGUMENT", "UNKNOWN", 503, 400, None),
        r"unknown model|is not ready|no version",
    ),
    Rule(AccessDenied, ("UNAVAILABLE", "UNKNOWN", 503, 400, None), r"(API|protocol) is restricted"),
    Rule(InvalidRequest, ("RESOURCE_EXHAUSTED",), r"message larger than max"),
    # Whatever goes wrong before the first answer of a generation is a 400 over HTTP, and has no status over gRPC.
    Rule(ServerUnavailable, (400, None), r"Server is stopping"),
    Rule(ServerFailed, (400, None), r"Failed to process the request|[Ss]tub process"),
    Rule(InvalidRequest, ("INVALID_ARGUMENT", "OUT_OF_RANGE", "FAILED_PRECONDITION", "ALREADY_EXISTS")),
    Rule(InvalidRequest, (None, "UNIMPLEMENTED", 400, 405, 409, 411, 413, 414, 415, 422, 431, 501)),
    Rule(ModelNotFound, ("NOT_FOUND", 404)),
    Rule(AccessDenied, ("PERMISSION_DENIED", "UNAUTHENTICATED", 401, 403, 407)),
    Rule(DeadlineExceeded, ("DEADLINE_EXCEEDED", 408, 504)),
    Rule(ServerUnavailable, ("UNAVAILABLE", "CANCELLED", 499, 502, 503)),
    Rule(ServerOverloaded, ("RESOURCE_EXHAUSTED", 429)),
    # A request's parameter of another type than Triton's own.
    Rule(InvalidRequest, (500,), r"^Unable to parse "),
    Rule(ServerFailed, ("INTERNAL", "UNKNOWN", "DATA_LOSS", "ABORTED", 500)),
)


def kind_of(status: Status, words: str) -> type[TritonyardError]:
    """Return the class for what a server answered; an HTTP code that no row names goes by its hundreds."""
    for rule in RULES:
        if status in rule.statuses and re.search(rule.words, words):
            return rule.kind
    return InvalidRequest if isinstance(status, int) and 400 <= status < 500 else ServerFailed
