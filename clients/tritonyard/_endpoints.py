"""The addresses of a client: whose turn it is, and which are left out until they answer again. Asks nobody itself.

With more than one address each is asked whether it is ready before its first call, and again before the first call
after it failed and rested. Nothing runs in the background.
"""

import itertools
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from tritonyard._connection import Connection

Carrier = TypeVar("Carrier")

# How long an address that failed is left alone; twice as long with each further failure.
REST_S, LONGEST_REST_S = 1.0, 30.0
# How long it may take to say that it is ready; a part of the call's own budget at most.
CHECK_S, CHECK_SHARE = 1.0, 0.5


class Endpoint(Generic[Carrier]):
    """One address: `connection` says how it is reached, `transport` reaches it."""

    def __init__(self, connection: Connection, transport: Carrier):
        self.connection, self.transport = connection, transport
        self.url = str(connection.address)
        self.failures = 0
        # When it may be asked whether it is ready; None where it is taken to be.
        self.due: float | None = 0.0

    def failed(self, now: float) -> None:
        """Leave it alone for a while."""
        self.failures += 1
        self.due = now + min(LONGEST_REST_S, REST_S * 2.0 ** min(self.failures - 1, 10))

    def suspected(self, now: float) -> None:
        """Have it asked before its next call: it did not answer in time, which may have been the call's own fault."""
        self.due = now

    def answered(self) -> None:
        """Take it to be ready."""
        self.failures, self.due = 0, None


class Endpoints(Generic[Carrier]):
    """All addresses of a client, which take turns."""

    def __init__(self, endpoints: Sequence[Endpoint[Carrier]], clock: Callable[[], float] = time.monotonic):
        self.all = tuple(endpoints)
        self.clock = clock
        self._turn = itertools.count()

    def __len__(self) -> int:
        return len(self.all)

    def turn(self) -> list[Endpoint[Carrier]]:
        """Return all addresses in the order in which one call tries them: another one is the first each time."""
        start = next(self._turn) % len(self.all)
        return [*self.all[start:], *self.all[:start]]

    def best(self, untried: Sequence[Endpoint[Carrier]]) -> tuple[Endpoint[Carrier], bool]:
        """Return which of `untried` is next, and whether it is to be asked first whether it is ready.

        The first whose turn it is and that does not rest; where all of them rest, the one whose rest ends first.
        """
        if len(self.all) == 1:
            return self.all[0], False
        now = self.clock()
        for each in untried:
            if each.due is None:
                return each, False
            if each.due <= now:
                # Only one call at a time pays for the question.
                each.due = now + CHECK_S
                return each, True
        return min(untried, key=lambda each: each.due or 0.0), False
