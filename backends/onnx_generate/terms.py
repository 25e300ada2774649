"""What one request says of its place among the others: Triton request parameters, checked. Pure: no numpy, no Triton.

Parameters reach every step of an ensemble, over gRPC and HTTP; over `generate` they are members of its JSON. Triton's
own `priority` does not reach a model (2.51), its `timeout` does.
"""

import json
from dataclasses import dataclass, fields

from request import BadRequest

LEVELS = 9
LONGEST_US = 10**12


@dataclass(frozen=True)
class Terms:
    """How a request is scheduled. Times are microseconds from its arrival at the engine, as Triton's are; 0 is none.

    `priority_level`: 1 is the best, as in Triton. A better one starts first, and takes the slot of a worse one.
    `tenant`: the slots are shared out among tenants, not among requests.
    `timeout`: the answer ends then with what it has, and says `timeout`; without a token, the detokenizer refuses it.
    The name and the unit are Triton's.
    `queue_timeout`: so does a request that has no slot by then; one that would have none is refused at once.
    `cache_salt`: prompts share what was computed of them only with those of the same salt, so that nobody else can
    tell by the time to the first token what was asked before. The name is vLLM's.
    """

    priority_level: int = 5
    tenant: str = ""
    timeout: int = 0
    queue_timeout: int = 0
    cache_salt: str = ""

    def __post_init__(self):
        """Raise BadRequest on a value of another kind, or out of range."""
        for name, least, most in (
            ("priority_level", 1, LEVELS),
            ("timeout", 0, LONGEST_US),
            ("queue_timeout", 0, LONGEST_US),
        ):
            value = getattr(self, name)
            if type(value) is not int or not least <= value <= most:
                raise BadRequest(f"{name} is {value!r}; give a whole number from {least} to {most}")
        for name in ("tenant", "cache_salt"):
            if not isinstance(getattr(self, name), str):
                raise BadRequest(f"{name} is {getattr(self, name)!r}; give a string")

    @property
    def start_within_s(self):
        """How many seconds it may wait before it starts; None is any time."""
        limits = [limit for limit in (self.timeout, self.queue_timeout) if limit]
        return min(limits) / 1e6 if limits else None


NO_TERMS = Terms()


def read_terms(parameters, timeout=0):
    """Return the Terms in a request's `parameters`, a JSON object as text; others than these are not for us.

    `timeout` is what Triton itself was given; a parameter of that name, as `generate` gives it, comes first.
    """
    given = {"timeout": timeout} | (json.loads(parameters) if parameters else {})
    return Terms(**{field.name: given[field.name] for field in fields(Terms) if field.name in given})
