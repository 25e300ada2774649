"""Who of those that wait is next: by priority level, by what their tenants had, by arrival. Pure: no clock.

The best level goes first. But a level that was passed over TURN times in favour of better ones has the next turn: none
starves, and each has a stated part, one start in TURN + 1 at least while it waits alone below the best.
"""

from collections import deque

# Starts of better levels after which a level has its turn.
TURN = 8


class Waiting:
    """The queue; `shares` says what tenants had."""

    def __init__(self, shares):
        self._shares = shares
        self._levels = {}  # level -> tenant -> its sequences
        self._passed = {}  # level -> starts of better ones since its last
        self._count = 0  # for other threads, which may not look through what changes

    def __len__(self):
        return self._count

    def __iter__(self):
        """Give all sequences, the best level first."""
        for level in sorted(self._levels):
            for line in self._levels[level].values():
                yield from line

    def add(self, sequence, is_first=False):
        """Put `sequence` behind those of its level and tenant, or before them."""
        lines = self._levels.setdefault(sequence.terms.priority_level, {})
        line = lines.setdefault(sequence.terms.tenant, deque())
        (line.appendleft if is_first else line.append)(sequence)
        self._passed.setdefault(sequence.terms.priority_level, 0)
        self._count += 1

    def remove(self, sequence):
        """Take `sequence` out, wherever it is."""
        level, tenant = sequence.terms.priority_level, sequence.terms.tenant
        self._levels[level][tenant].remove(sequence)
        self._count -= 1
        if not self._levels[level][tenant]:
            del self._levels[level][tenant]
        if not self._levels[level]:
            del self._levels[level], self._passed[level]

    def best(self):
        """Return who is next by level alone, None when nobody waits."""
        return self._head(min(self._levels)) if self._levels else None

    def next(self):
        """Return whose turn it is, None when nobody waits."""
        if not self._levels:
            return None
        level = max(sorted(self._levels), key=self._passed.__getitem__)
        return self._head(level) if self._passed[level] >= TURN else self.best()

    def start(self, sequence):
        """Take out `sequence`, which starts; return whether it had its turn before better ones."""
        level = sequence.terms.priority_level
        has_turn = level > min(self._levels)
        for each in self._passed:
            self._passed[each] += each > level
        self._passed[level] = 0
        self.remove(sequence)
        return has_turn

    def _head(self, level):
        lines = self._levels[level]
        return lines[min(lines, key=self._shares.of)][0]
