"""How much of the engine each tenant has had, in tokens. Pure: no clock.

The counters of Sheng et al., "Fairness in Serving Large Language Models" (2024): every token that is computed counts
for its tenant, and who has the least goes next. Who comes, or comes back, starts with no less than the least of those
that are there: staying away saves nothing up.
"""

from collections import Counter


class Shares:
    """Counters of the tenants that have requests here, and of those that had more than these."""

    def __init__(self):
        self._present = Counter()  # tenant -> its requests
        self._served = {}

    def enter(self, tenant):
        """Note that one more request of `tenant` is here."""
        if tenant not in self._present:
            least = min((self._served[each] for each in self._present), default=0)
            # Others that went with less would start with this as well.
            self._served = {each: had for each, had in self._served.items() if each in self._present or had > least}
            self._served.setdefault(tenant, least)
        self._present[tenant] += 1

    def leave(self, tenant):
        """Note that a request of `tenant` has gone."""
        self._present[tenant] -= 1
        if not self._present[tenant]:
            del self._present[tenant]
        if not self._present:
            self._served.clear()

    def charge(self, tenant, tokens):
        """Count `tokens` for a tenant that has a request here."""
        self._served[tenant] += tokens

    def of(self, tenant):
        """Return what a tenant that has a request here was served."""
        return self._served[tenant]
