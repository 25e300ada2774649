"""What one request is: the tables under `[request]`, one for each task. Declarations only."""

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from ensembles.declaration import Declared
from loadtests.judging.sla import Positive
from loadtests.traffic.arrivals import Count


class Words(Declared):
    """What a text is, or how long, in words.

    `sentences` takes shipped sentences as they are (5 to 100 words), `file` the lines of a text file of your own, whose
    path is from the scenario's folder. `uniform` draws from [`min`, `max`]. `lognormal` draws with `median` and `sigma`
    (of the logarithm), clipped to [`min`, `max`].
    """

    distribution: Literal["sentences", "file", "uniform", "lognormal"] = "sentences"
    file: Annotated[str, Field(min_length=1)] | None = None
    min: Count | None = None
    max: Count | None = None
    median: Positive | None = None
    sigma: Positive | None = None

    @model_validator(mode="after")
    def _has_its_parameters(self) -> Self:
        needed = {
            "sentences": set(),
            "file": {"file"},
            "uniform": {"min", "max"},
            "lognormal": {"min", "max", "median", "sigma"},
        }
        mine: set[str] = needed[self.distribution]
        given = {key for key in ("file", "min", "max", "median", "sigma") if getattr(self, key) is not None}
        if given != mine:
            known = ", ".join(sorted(mine)) or "no other key"
            raise ValueError(
                f"distribution '{self.distribution}' takes {known}; "
                f"missing: {', '.join(sorted(mine - given)) or 'none'}, "
                f"too many: {', '.join(sorted(given - mine)) or 'none'}"
            )
        if self.min and self.max and self.min > self.max:
            raise ValueError(f"min = {self.min} is above max = {self.max}; swap them")
        return self


class Lengths(Declared):
    """A length drawn uniformly from [`min`, `max`]."""

    min: Count
    max: Count

    @model_validator(mode="after")
    def _ascends(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min = {self.min} is above max = {self.max}; swap them")
        return self


def _number_or_table(value: object) -> object:
    """One number stands for a range of one length."""
    if value is None or isinstance(value, dict | Lengths):
        return value
    if type(value) is not int or value < 1:
        raise ValueError("give a whole number of at least 1, or a table with min and max")
    return {"min": value, "max": value}


class EmbedRequest(Declared):
    """What one request is: the model it goes to, `texts` of `words` each, and its timeout in seconds.

    A request is one call of the SDK, as a user makes it; the SDK may cut many texts into several requests to Triton.
    """

    task: Literal["embed"]
    model: Annotated[str, Field(min_length=1)]
    texts: Count = 1
    words: Words = Words()
    timeout_s: Positive = 5.0


class GenerateRequest(Declared):
    """What one request is: the model it goes to, a prompt, how long the answer is, and its timeout in seconds.

    The prompt is one user's message of `prompt` words in the model's own chat template, after the message `system`
    where there is one. `output_tokens` is a number, or a range to draw from; it is asked for as the least and the
    most, so that lengths do not depend on what the model says. It is left out where a trace brings the lengths.
    Answers are greedy. With `stream` they come in deltas.
    """

    task: Literal["generate"]
    model: Annotated[str, Field(min_length=1)]
    stream: bool = True
    prompt: Words = Words()
    system: Annotated[str, Field(min_length=1)] | None = None
    output_tokens: Annotated[Lengths | None, BeforeValidator(_number_or_table)] = None
    timeout_s: Positive = 30.0


Request = EmbedRequest | GenerateRequest


class Share(Declared):
    """One kind of request in a mix: its name in the samples, and how often it is drawn against the others' weights."""

    name: Annotated[str, Field(min_length=1)]
    weight: Positive
    request: Annotated[Request, Field(discriminator="task")]

    @property
    def is_streamed(self) -> bool:
        """Whether the answers come in deltas."""
        return isinstance(self.request, GenerateRequest) and self.request.stream
