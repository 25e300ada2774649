"""A known line of a failing server, what it means and what mends it: a row of the tables of `serving.explanations`."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class KnownError:
    """One row: `pattern` finds the line, `cause` and `mend` may name its groups in braces."""

    name: str
    pattern: str
    cause: str
    mend: str

    def search(self, line: str) -> "re.Match[str] | None":
        """Return where this error stands in a line of a log; re caches the compiled pattern."""
        return re.search(self.pattern, line)
