"""`yard ask`: a question -> the answer as it is written, through a running server."""

from typing import Unpack

import click

from tritonyard import Options, Stream
from yard.connection import connected
from yard.console import err

# Who watches an answer grow ends it with Ctrl-C.
TIMEOUT_S = 600.0


@click.command()
@click.argument("question")
@click.option("--url", default="grpc://127.0.0.1:8001", show_default=True, help="grpc://... or http://...")
@click.option("--model", default="smollm2", show_default=True)
@click.option("--system", metavar="TEXT", help="What the model is told before the question.")
@click.option("--max-tokens", default=256, show_default=True, help="End after so many tokens.")
@click.option("--temperature", type=float, help="0 always takes the likeliest token; so does leaving it out.")
@click.option("--top-p", type=float, help="Sample among the likeliest tokens that hold this share.")
@click.option("--top-k", type=int, help="Sample among so many likeliest tokens.")
@click.option("--seed", type=int, help="The same seed, the same answer.")
@click.option("--raw", is_flag=True, help="Let the model go on from QUESTION as it stands, without a chat template.")
def ask(question: str, url: str, system: str | None, raw: bool, **options: Unpack[Options]) -> None:
    """Ask a model QUESTION and print its answer while it is written; Ctrl-C cancels it on the server.

    \b
    Example: yard ask "What is the capital of France?"
    """
    if raw and system is not None:
        raise click.UsageError("--system is a message and --raw sends none; drop one of them")
    messages = [{"role": "user", "content": question}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    with connected(url, TIMEOUT_S) as client:
        if raw:
            write(client.generate(question, stream=True, **options))
        else:
            write(client.chat(messages, stream=True, **options))


def show(url: str, model: str, question: str, max_tokens: int) -> None:
    """Ask a model one question and print its answer while it is written."""
    with connected(url, TIMEOUT_S) as client:
        write(client.chat([{"role": "user", "content": question}], stream=True, model=model, max_tokens=max_tokens))


def write(stream: Stream) -> None:
    """Print an answer while it grows, and then, on standard error, how long and how fast it was."""
    try:
        for delta in stream:
            click.echo(delta.text, nl=False)
    finally:
        if stream.text:
            click.echo()
    usage, timing = stream.usage, stream.timing
    said = f"the first after {timing.first_token or timing.total:.2f} s; {stream.finish_reason}"
    if usage.output_tokens is not None and timing.total:
        rate = usage.output_tokens / timing.total
        said = f"{usage.input_tokens} tokens in, {usage.output_tokens} out at {rate:.1f} tokens/s, {said}"
    err.print(said, markup=False)
