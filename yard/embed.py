"""`yard embed`: texts -> similarities, through a running server."""

import click
from rich.table import Table

from yard.connection import connected
from yard.console import out

DEMO_TEXTS = (
    "How do I reset my password?",
    "I forgot my login and need a new one.",
    "The invoice for May has not been paid yet.",
    "Your bill from last month is still open.",
    "Bake the sponge until it springs back when pressed.",
)


@click.command()
@click.argument("texts", nargs=-1)
@click.option("--model", default="minilm", show_default=True)
@click.option("--url", default="grpc://127.0.0.1:8001", show_default=True, help="grpc://... or http://...")
@click.option("--truncate", is_flag=True, help="Cut texts that are too long instead of refusing them.")
def embed(texts: tuple[str, ...], model: str, url: str, truncate: bool) -> None:
    """Embed TEXTS (or a few examples) and print how similar each is to each.

    \b
    Example: yard embed "a cat on a mat" "a feline on a rug"
    """
    show(url, model, texts or DEMO_TEXTS, truncate)


def show(url: str, model: str, texts: tuple[str, ...], truncate: bool = False) -> None:
    """Print the table of cosines between the embeddings of `texts`."""
    with connected(url) as client:
        embeddings = client.embed(list(texts), model=model, truncate=truncate)
    lengths = (embeddings**2).sum(axis=1, keepdims=True) ** 0.5
    unit = embeddings / lengths.clip(min=1e-12)
    table = Table("", f"{model}: {embeddings.shape[1]} numbers a text", *map(str, range(1, len(texts) + 1)))
    for number, (text, row) in enumerate(zip(texts, unit @ unit.T, strict=True), 1):
        short = text if len(text) <= 60 else f"{text[:59]}…"
        table.add_row(
            str(number), short, *(f"[bold]{value:.2f}[/]" if value > 0.5 else f"{value:.2f}" for value in row)
        )
    out.print(table)
