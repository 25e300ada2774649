"""The clients under test: sync and async behind the same methods, and fakes to ask, by protocol."""

import asyncio
import random

import numpy as np
from fake_kserve import embedding_of, fake_grpc, fake_http, said

from tritonyard import AsyncClient, AsyncStream, Client, Delta

FAKES = {"grpc": fake_grpc, "http": fake_http}
GRACE_S = 0.25

# What a fake writes, and the deltas that a caller sees of it.
HELLO = [said("", count=0), said("hé", count=1), said("", count=1), said("llo\n", count=3), said("", "stop", 3)]
DELTAS = [Delta("hé", None, 3, 1), Delta("llo\n", None, 3, 3), Delta("", "stop", 3, 3)]


class Blocking:
    """An AsyncClient with the methods of a Client, so that one test speaks for both."""

    def __init__(self, *args, **kwargs):
        self._loop = asyncio.new_event_loop()
        self._client = AsyncClient(*args, **kwargs)

    def __getattr__(self, name):
        method = getattr(self._client, name)
        return lambda *args, **kwargs: self._waited(method(*args, **kwargs))

    def _waited(self, asked):
        if not isinstance(asked, AsyncStream):
            return self._loop.run_until_complete(asked)

        async def gathered():
            return [delta async for delta in asked]

        return _Later(lambda: self._loop.run_until_complete(gathered()))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._loop.run_until_complete(self._client.close())
        self._loop.close()


class _Later:
    """What an async loop yields, gathered when it is iterated."""

    def __init__(self, gather):
        self._gather = gather

    def __iter__(self):
        return iter(self._gather())


CLIENTS = {"sync": Client, "async": Blocking}


def mixed_texts(count):
    dice = random.Random(0)
    return [chr(97 + index % 26) * dice.randint(1, 9) + " word" * dice.randint(0, 150) for index in range(count)]


def expected(texts):
    return np.array([embedding_of(text.encode()) for text in texts], np.float32)
