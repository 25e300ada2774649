"""OpenTelemetry's spans of what a client does: one for a method's call, and under it one for each attempt.

Names and attributes are those of the semantic conventions for generative AI and for RPC where they have some. The
headers of an attempt carry its span to the server (`traceparent`, W3C Trace Context), which goes on with the trace.
"""

from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any

from tritonyard._errors import TritonyardError
from tritonyard._event import Event
from tritonyard._transport import (
    Call,
    Deadline,
    Generate,
    GetConfig,
    Headers,
    Infer,
    Probe,
    Refused,
    Register,
    Unregister,
)

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

    from tritonyard._connection import Address
    from tritonyard._growth import Growth

# Method -> gen_ai.operation.name.
GENERATIVE = {"embed": "embeddings", "generate": "text_completion", "chat": "chat"}
# Call -> the method of KServe's gRPC service; over HTTP it has no name.
RPC = {
    Infer: "ModelInfer",
    Generate: "ModelStreamInfer",
    GetConfig: "ModelConfig",
    Probe: "Ready",
    Register: "SystemSharedMemoryRegister",
    Unregister: "SystemSharedMemoryUnregister",
}


class _NoSpan(AbstractContextManager["_NoSpan"]):
    """Stands in for an attempt's span where nobody traces."""

    headers: Headers = ()

    def __exit__(self, *_: object) -> None:
        pass


NO_SPAN = _NoSpan()


class Operation:
    """One call of a client's method: `name`, its time budget, and its span where `tracer` is not None."""

    def __init__(self, name: str, model: str | None, deadline: Deadline, tracer: "Tracer | None"):
        self.deadline = deadline
        self._tracer = tracer
        if tracer is None:
            return
        from opentelemetry.trace import SpanKind, set_span_in_context

        generative = GENERATIVE.get(name)
        attributes: dict[str, Any] = {"tritonyard.model": model or "", "tritonyard.timeout": deadline.timeout}
        if generative:
            attributes |= {"gen_ai.operation.name": generative, "gen_ai.request.model": model or ""}
        title = f"{generative or name} {model}" if model else name
        self._span = tracer.start_span(title, kind=SpanKind.CLIENT, attributes=attributes)
        self._context = set_span_in_context(self._span)

    def __enter__(self) -> "Operation":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._tracer is not None:
            _end(self._span, error)

    @property
    def is_traced(self) -> bool:
        """Whether it has a span."""
        return self._tracer is not None

    def decided(self, event: Event) -> None:
        """Write a decision on the span of the method's call."""
        if self._tracer is not None:
            facts: dict[str, Any] = {
                "attempt": event.attempt,
                "url": event.url,
                "wait": event.wait,
                "reason": event.reason,
            }
            facts["error"] = str(event.error) if event.error else None
            self._span.add_event(event.kind, {name: fact for name, fact in facts.items() if fact is not None})

    def attempt(self, call: Call | Generate, address: "Address", number: int) -> "_AttemptSpan | _NoSpan":
        """Return what an attempt is made within; its `headers` are to be sent."""
        if self._tracer is None:
            return NO_SPAN
        return _AttemptSpan(self._tracer, self._context, call, address, number)

    def told(self, answer: "Growth") -> None:
        """Write what a generation came to on the span of the method's call."""
        if self._tracer is None:
            return
        facts = {
            "gen_ai.usage.input_tokens": answer.usage.input_tokens,
            "gen_ai.usage.output_tokens": answer.usage.output_tokens,
            "tritonyard.first_token": answer.timing.first_token,
            "tritonyard.between_tokens": answer.timing.between_tokens,
        }
        self._span.set_attributes({name: fact for name, fact in facts.items() if fact is not None})
        if reasons := [each.finish_reason for each in answer.choices if each.finish_reason]:
            self._span.set_attribute("gen_ai.response.finish_reasons", reasons)


class _AttemptSpan:
    def __init__(self, tracer: "Tracer", context: Any, call: Call | Generate, address: "Address", number: int):
        from opentelemetry.propagate import inject
        from opentelemetry.trace import SpanKind, set_span_in_context

        attributes: dict[str, Any] = {
            "server.address": address.host,
            "server.port": address.port,
            "network.protocol.name": "grpc" if address.is_grpc else "http",
            "tritonyard.attempt": number,
        }
        if call.id is not None:
            attributes["tritonyard.request_id"] = call.id
        title = f"{RPC[type(call)]} {call.model}" if call.model else RPC[type(call)]
        self._span = tracer.start_span(title, context, SpanKind.CLIENT, attributes)
        carrier: dict[str, str] = {}
        inject(carrier, set_span_in_context(self._span, context))
        self.headers: Headers = tuple(carrier.items())

    def __enter__(self) -> "_AttemptSpan":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _end(self._span, error)


def _end(span: Any, error: BaseException | None) -> None:
    """End a span, which leaving a loop or cancelling a task does not make one of an error."""
    from opentelemetry.trace import Status, StatusCode

    if isinstance(error, GeneratorExit):
        span.set_attribute("tritonyard.cancelled", True)
    elif error is not None:
        said = error.words or error.status if isinstance(error, Refused) else error
        span.set_attribute("error.type", _type_of(error))
        span.set_status(Status(StatusCode.ERROR, str(said)))
    span.end()


def _type_of(error: BaseException) -> str:
    if isinstance(error, Refused):
        return str(error.status)
    return type(error).__name__ if isinstance(error, TritonyardError) else type(error).__qualname__
