"""OpenTelemetry's spans: one a method's call, one an attempt, and the server gets the attempt's as traceparent."""

import pytest
from fake_kserve import Fault, said
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from tritonyard import Retry, ServerFailed, ServerOverloaded


@pytest.fixture
def exporter():
    return InMemorySpanExporter()


@pytest.fixture
def tracer(exporter):
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider.get_tracer("tests")


@pytest.fixture
def traced(fake, kind, tracer):
    with kind(fake.url, model="minilm", timeout=10, tracer=tracer, retry=Retry(backoff=0.01)) as client:
        yield client


def test_a_call_its_attempts_and_the_traceparent_of_each(traced, fake, exporter, tracer):
    left = iter([Fault("UNAVAILABLE", 503, "Exceeds maximum queue size")])

    def answer(texts, parameters):
        if fault := next(left, None):
            raise fault

    fake.answer = answer
    with tracer.start_as_current_span("the caller's own"):
        traced.embed("a")
    config, first, second, call, outer = exporter.get_finished_spans()
    assert [each.name for each in (config, first, second, call)] == [
        "ModelConfig minilm",
        "ModelInfer minilm",
        "ModelInfer minilm",
        "embeddings minilm",
    ]
    assert call.parent.span_id == outer.context.span_id
    assert {each.parent.span_id for each in (config, first, second)} == {call.context.span_id}
    assert {each.kind for each in (call, first, second)} == {SpanKind.CLIENT}
    assert first.attributes["error.type"] in ("UNAVAILABLE", "503")
    assert first.status.status_code is StatusCode.ERROR
    assert second.status.status_code is StatusCode.UNSET
    assert (first.attributes["tritonyard.attempt"], second.attributes["tritonyard.attempt"]) == (1, 2)
    assert first.attributes["server.port"] == int(fake.url.rsplit(":", 1)[1])
    assert call.attributes["gen_ai.operation.name"] == "embeddings"
    assert [each.name for each in call.events] == ["sent", "answered", "sent", "retrying", "sent", "answered"]
    parents = [each["traceparent"].split("-")[1:3] for each in fake.headers if "traceparent" in each]
    assert parents[-2:] == [
        [f"{each.context.trace_id:032x}", f"{each.context.span_id:016x}"] for each in (first, second)
    ]


@pytest.mark.parametrize("method", ["generate", "chat"])
def test_a_generation_tells_what_it_came_to(traced, fake, exporter, method):
    fake.write = lambda inputs: iter([said("hel"), said("lo", "stop", 2)])
    list(getattr(traced, method)("Hi" if method == "generate" else [{"role": "user", "content": "Hi"}], stream=True))
    attempt, call = exporter.get_finished_spans()
    assert call.name == ("text_completion minilm" if method == "generate" else "chat minilm")
    assert call.attributes["gen_ai.usage.output_tokens"] == 2
    assert call.attributes["gen_ai.response.finish_reasons"] == ("stop",)
    assert call.attributes["tritonyard.first_token"] > 0
    assert attempt.attributes["tritonyard.request_id"] == fake.ids[0]


def test_a_generation_tells_why_each_of_its_answers_ended(traced, fake, exporter):
    fake.write = lambda inputs: iter(
        {**said("a", reason, count), "sequence_index": index}
        for index, reason, count in ((1, "stop", 2), (0, "length", 3))
    )
    list(traced.generate("Hi", n=2, temperature=1, stream=True))
    *_, call = exporter.get_finished_spans()
    assert call.attributes["gen_ai.response.finish_reasons"] == ("length", "stop")
    assert call.attributes["gen_ai.usage.output_tokens"] == 5


def test_errors_are_on_both_spans(traced, fake, exporter):
    def write(inputs):
        yield said("hel")
        raise Fault("UNKNOWN", 500, "boom")

    fake.write = write
    with pytest.raises(ServerFailed):
        list(traced.generate("Hi", stream=True))
    attempt, call = exporter.get_finished_spans()
    assert call.status.status_code is attempt.status.status_code is StatusCode.ERROR
    assert call.attributes["error.type"] == "ServerFailed"
    assert "boom" in call.status.description
    exporter.clear()

    def answer(texts, parameters):
        raise Fault("UNAVAILABLE", 503, "Exceeds maximum queue size")

    fake.answer = answer
    with pytest.raises(ServerOverloaded):
        traced.embed(["word " * 150] * 30)
    spans = exporter.get_finished_spans()
    assert spans[-1].attributes["error.type"] == "ServerOverloaded"
    assert all(each.end_time is not None for each in spans)


def test_without_a_tracer_nothing_is_sent(client, fake):
    client.embed("a")
    assert not any("traceparent" in each for each in fake.headers)


def test_a_loop_that_is_left_is_no_error(fake, exporter, tracer):
    from tritonyard import Client

    fake.write = lambda inputs: (said("x", count=count) for count in range(1, 10**6))
    with Client(fake.url, model="minilm", tracer=tracer) as client:
        for _ in client.generate("Hi", stream=True):
            break
    attempt, call = exporter.get_finished_spans()
    assert call.status.status_code is attempt.status.status_code is StatusCode.UNSET
    assert call.attributes["tritonyard.cancelled"] is True
