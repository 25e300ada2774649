"""What a client decides about a call, as its caller's hook is told."""

from dataclasses import dataclass
from typing import Literal

from tritonyard._errors import TritonyardError
from tritonyard._transport import Call, Generate

Kind = Literal["sent", "answered", "retrying", "failed", "address_up", "address_down"]


@dataclass(frozen=True)
class Event:
    """One decision about `call`, told to the function that a client has as `on_event`, in the thread of the call.

    `kind` is one of
    - `sent`: attempt number `attempt` goes to `url`;
    - `answered`: its answer, or the first of a stream, has come;
    - `retrying`: it failed with `error`, and is sent again in `wait` seconds;
    - `failed`: it failed with `error`, which the caller gets; `reason` says why it is not sent again;
    - `address_up`, `address_down`: `url` was asked whether it is ready, before this call was sent there.
    """

    kind: Kind
    call: Call | Generate
    url: str
    attempt: int
    error: TritonyardError | None = None
    wait: float | None = None
    reason: str | None = None
