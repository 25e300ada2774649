"""When a call is sent again, and how long to wait before: pure rules.

A call is sent again where that cannot make the server do it twice: nobody was there to take it, or the server said that
it had not begun. Where the connection broke before any of the answer came, nobody knows: then only what may be done
twice is sent again.
"""

import math
import re
from dataclasses import dataclass
from typing import Literal

from tritonyard._errors import InvalidRequest, Status
from tritonyard._transport import Refused

# unsent: there was no connection; declined: the server did not begin; lost: nobody knows; answered: this is its answer.
Fate = Literal["unsent", "declined", "lost", "answered"]

# gRPC's words where it could not connect.
UNSENT = r"failed to connect|DNS resolution failed|[Nn]ame resolution"
# The words of Triton, and of proxies before it, where a request has not begun.
DECLINED = r"Exceeds maximum queue size|queue is full|Request timeout expired|Server is stopping|no healthy upstream"
# A proxy's words where it lost the server in the middle of a request.
LOST = r"reset before headers|disconnect|connection termination|upstream prematurely closed"
# Who answers so has not begun, unless its words say otherwise.
DECLINING: tuple[Status, ...] = (429, 503, "RESOURCE_EXHAUSTED")
LOSING: tuple[Status, ...] = ("UNAVAILABLE", 502)


@dataclass(frozen=True)
class Retry:
    """How often and when a call is sent again, where that is safe; the call's `timeout` is the budget of all attempts.

    `attempts` is how often it is sent at most, 1 for never again; an address that cannot be reached while others are
    left does not count. Before the second round over all addresses up to `backoff` seconds pass, before each further
    one up to twice as many as before, `longest` at most: each time a random part of it, so that callers who failed
    together do not come back together. A server's Retry-After counts where it is longer.

    Raises InvalidRequest: a value is out of range.
    """

    attempts: int = 3
    backoff: float = 0.1
    longest: float = 2.0

    def __post_init__(self) -> None:
        if not isinstance(self.attempts, int) or isinstance(self.attempts, bool) or self.attempts < 1:
            raise InvalidRequest(f"retry.attempts {self.attempts!r} is not a whole number of 1 or more")
        for name in ("backoff", "longest"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise InvalidRequest(f"retry.{name} {value!r} is not a number of seconds, 0 or more")

    def pause(self, rounds: int, share: float, retry_after: float | None) -> float:
        """Return the seconds before the next of `rounds` + 1 rounds; `share` is a random number from 0 to 1."""
        # Beyond 2^60 a float has nothing to gain.
        most = min(self.longest, self.backoff * 2.0 ** min(rounds - 1, 60))
        return max(most * share, retry_after or 0.0)


DEFAULT_RETRY = Retry()


def fate_of(refused: Refused) -> Fate:
    """Return what became of a call that got no good answer."""
    status, words = refused.status, refused.words
    if refused.unsent or (status == "UNAVAILABLE" and re.search(UNSENT, words)):
        return "unsent"
    if re.search(LOST, words):
        return "lost"
    if re.search(DECLINED, words) or status in DECLINING:
        return "declined"
    return "lost" if status in LOSING else "answered"


def hindrance(fate: Fate, idempotent: bool) -> str | None:
    """Return why a call must not be sent again, None where it may be."""
    if fate == "answered":
        return "the server has answered"
    if fate == "lost" and not idempotent:
        return "it may have been done, and is not declared idempotent"
    return None
