"""What one request says of its place among the others: Triton request parameters, checked. Pure: no numpy, no Triton.

Parameters reach every step of an ensemble, over gRPC and HTTP; over `generate` they are members of its JSON.
"""

import json
from dataclasses import dataclass

from request import BadRequest


@dataclass(frozen=True)
class Terms:
    """How a request is scheduled.

    `cache_salt`: prompts share what was computed of them only with those of the same salt, so that nobody else can
    tell by the time to the first token what was asked before. The name is vLLM's.
    """

    cache_salt: str = ""

    def __post_init__(self):
        """Raise BadRequest on a value that is not one of its kind."""
        if not isinstance(self.cache_salt, str):
            raise BadRequest(f"cache_salt is {self.cache_salt}; give a string")


NO_TERMS = Terms()


def read_terms(parameters):
    """Return the Terms in a request's `parameters`, a JSON object as text; others than these are not for us."""
    given = json.loads(parameters) if parameters else {}
    return Terms(**{name: given[name] for name in Terms.__dataclass_fields__ if name in given})
