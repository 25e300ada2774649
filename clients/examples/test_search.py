"""Tests of code that calls a model, without a server: a function answers in its place.

python -m pytest test_search.py
"""

import asyncio
from typing import Any

import numpy as np

from tritonyard import AsyncClient, Client, Delta, Generate, Infer, MockTransport


def nearest(client: Client, question: str, texts: list[str]) -> str:
    asked, *embeddings = client.embed([question, *texts])
    return texts[int(np.argmax([asked @ each for each in embeddings]))]


def server(call: Any) -> Any:
    match call:
        case Infer():  # embed and infer: a text's embedding is how often it has an a and a b
            texts = call.arrays["text"].ravel()  # bytes, as sent
            return {"embedding": np.array([[text.count(b"a"), text.count(b"b")] for text in texts], np.float32)}
        case Generate():  # generate and chat, streamed or not
            return [Delta("Hello", None, 3, 1), Delta("!", "stop", 3, 2)]


def test_the_nearest_text_is_found() -> None:
    with Client(model="any", transport=MockTransport(server)) as client:
        assert nearest(client, "aa", ["bb", "aba"]) == "aba"


def test_an_async_stream() -> None:
    async def main() -> list[str]:
        async with AsyncClient(model="any", transport=MockTransport(server)) as client:
            return [delta.text async for delta in client.generate("Hi", stream=True)]

    assert asyncio.run(main()) == ["Hello", "!"]
