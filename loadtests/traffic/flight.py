"""A request on its way, and the sample that it becomes. Pure."""

from dataclasses import dataclass, field
from typing import Any

from loadtests.samples import EmbedSample, GenerateSample, Sample
from loadtests.traffic.corpus import Call
from loadtests.traffic.request import EmbedRequest


@dataclass
class Flight:
    """A request on its way, and what of its answer is there. Times in seconds of the schedule."""

    call: Call
    intended_s: float
    started_s: float
    tokens_in: int | None = None
    deltas: list[tuple[float, int]] = field(default_factory=list)

    def sample(self, index: int, finished_s: float, error: Exception | None) -> Sample:
        """Return the sample of the `index`th request, which ended at `finished_s`, with `error` where it failed."""
        request = self.call.request
        common: dict[str, Any] = {
            "index": index,
            "kind": self.call.kind,
            "intended_s": round(self.intended_s, 6),
            "started_s": round(self.started_s, 6),
            "finished_s": round(finished_s, 6),
            "ok": error is None,
            "error": type(error).__name__ if error else None,
        }
        if isinstance(request, EmbedRequest):
            return EmbedSample(**common, texts=request.texts)
        deltas = tuple((round(at, 6), tokens) for at, tokens in self.deltas)
        return GenerateSample(**common, tokens_in=self.tokens_in, deltas=deltas)
