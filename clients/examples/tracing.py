"""Trace calls with OpenTelemetry: a span of each call, and under it one of each attempt, which the server goes on with.

pip install "tritonyard[otel]" opentelemetry-sdk
python tracing.py http://127.0.0.1:8000 "Why is the sky blue?"
"""

import asyncio
import sys

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

from tritonyard import AsyncClient


def line(span: ReadableSpan) -> str:
    facts = ", ".join(f"{name}={fact!r}" for name, fact in (span.attributes or {}).items())
    return f"{'  ' if span.parent else ''}{span.name}: {facts}\n"


async def main(url: str, question: str) -> None:
    provider = TracerProvider()
    # Yours sends them to a collector.
    provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(formatter=line)))
    async with AsyncClient(url, model="smollm2", tracer=provider.get_tracer("my application")) as client:
        answer = await client.chat([{"role": "user", "content": question}], max_tokens=16)
    print(answer.text)


asyncio.run(main(sys.argv[1], sys.argv[2]))
