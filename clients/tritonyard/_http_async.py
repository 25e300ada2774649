"""HTTP for asyncio, by aiohttp."""

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from yarl import URL

from tritonyard._connection import Connection
from tritonyard._http_codec import Body, compressed, decode, encode
from tritonyard._transport import Answer, Call, Deadline, Generate, Headers, Refused

# aiohttp would ask for compressed answers: embeddings hardly get smaller, and both sides would work for it.
PLAIN = {"Accept-Encoding": "identity"}


class AsyncHttpTransport:
    """A session of its own, opened by the first call: it belongs to the event loop of that call."""

    def __init__(self, connection: Connection):
        self._connection = connection
        self._session: aiohttp.ClientSession | None = None

    async def ask(self, call: Call, deadline: Deadline, headers: Headers) -> Any:
        """Send and wait."""
        async with self._sent(call, deadline, headers) as response:
            return decode(call, response.status, response.headers, await response.read())

    async def stream(self, call: Generate, deadline: Deadline, headers: Headers) -> AsyncGenerator[Answer, None]:
        """Send, and yield the answers as they come."""
        async with self._sent(call, deadline, headers) as response:
            body = Body(response.status, response.headers)
            try:
                async for data in response.content.iter_any():
                    for answer in body.cut(data):
                        yield answer
                for answer in body.cut(b""):
                    yield answer
            finally:
                # The server sees that nobody waits; nothing happens where the body has been read.
                response.close()

    async def close(self) -> None:
        """Close all connections; calls under way end."""
        if self._session is not None:
            await self._session.close()

    @asynccontextmanager
    async def _sent(
        self, call: Call | Generate, deadline: Deadline, headers: Headers
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send and give the response; what goes wrong until it is read raises Refused."""
        if self._session is None:
            # How many calls are under way is the client's business: no second limit here.
            connector = aiohttp.TCPConnector(limit=0, ssl=self._connection.ssl or True)
            self._session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
        request = compressed(encode(call), self._connection.compression)
        url = URL(f"{self._connection.address}{request.path}", encoded=True)
        every = {**PLAIN, **request.headers, **dict(headers)}
        # By default aiohttp rounds deadlines of more than 5 seconds up to whole ones.
        timeout = aiohttp.ClientTimeout(total=deadline.left(), ceil_threshold=math.inf)
        try:
            # A redirection is an answer like any other: headers and tokens are for this server alone.
            async with self._session.request(
                request.method, url, data=request.body, headers=every, timeout=timeout, allow_redirects=False
            ) as response:
                yield response
        except (TimeoutError, asyncio.TimeoutError) as error:  # noqa: UP041 (two classes before 3.11)
            raise Refused("DEADLINE_EXCEEDED", str(error)) from None
        except (aiohttp.ClientError, OSError, ValueError, RuntimeError) as error:
            # aiohttp's own words for a refused connection speak of SSL.
            fault = getattr(error, "os_error", getattr(error, "certificate_error", error))
            unsent = isinstance(error, aiohttp.ClientConnectorError)
            raise Refused("UNAVAILABLE", f"{type(fault).__name__}: {fault}", unsent=unsent) from None
