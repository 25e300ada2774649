"""The asynchronous client, and the driver that carries a flow's calls over a transport."""

import asyncio
from collections import deque
from collections.abc import Coroutine, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, overload

from tritonyard._base import BaseClient
from tritonyard._connection import DEFAULT_URL, Address, AsyncToken, Compression, Connection, Tls
from tritonyard._datatype import Array
from tritonyard._errors import TritonyardError
from tritonyard._flows import Embeddings, Flow, Result, embedding, probing
from tritonyard._generation import Generation, Options, chatting, prompting, spelled_out
from tritonyard._infer import inferring, one_mapping
from tritonyard._mock import MockTransport
from tritonyard._stream import AsyncStream, generation
from tritonyard._transport import AsyncTransport, Call, Deadline, Generate, Parameter

if TYPE_CHECKING:
    from typing_extensions import Unpack


class AsyncClient(BaseClient):
    """The asynchronous Client: the same methods, results and errors, to be awaited.

    It belongs to the event loop of its first call. Use it as an async context manager, or await `close()`. `token` may
    be an async callable too; waiting for it is part of the call's timeout.
    Cancelling a task that waits here cancels its requests.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        model: str | None = None,
        timeout: float = 30.0,
        concurrency: int = 8,
        tls: Tls | None = None,
        headers: Mapping[str, str] | None = None,
        token: AsyncToken | None = None,
        compression: Compression | None = None,
        transport: MockTransport | None = None,
    ):
        connection = Connection(Address(url), tls, headers, token, compression)
        super().__init__(connection, model, timeout, concurrency)
        self._transport: AsyncTransport = transport.awaited() if transport is not None else _connect(connection)

    async def embed(
        self,
        texts: Sequence[str] | str,
        *,
        model: str | None = None,
        truncate: bool = False,
        timeout: float | None = None,
    ) -> Embeddings:
        """Return the embeddings of `texts`, FP32 [n, hidden], row for text; see `Client.embed`."""
        return await self._run(embedding(texts, self._named(model), truncate, self._configs), timeout)

    @overload
    def generate(
        self, prompt: str, *, stream: Literal[False] = False, **options: "Unpack[Options]"
    ) -> Coroutine[Any, Any, Generation]: ...
    @overload
    def generate(self, prompt: str, *, stream: Literal[True], **options: "Unpack[Options]") -> AsyncStream: ...
    @spelled_out
    def generate(
        self, prompt: str, *, stream: bool = False, **options: "Unpack[Options]"
    ) -> Coroutine[Any, Any, Generation] | AsyncStream:
        """Await for what the model writes after `prompt`, or iterate with `stream=True`; see `Client.generate`."""
        return self._answer(prompting(self._named(options.get("model")), prompt, stream, options), options)

    @overload
    def chat(
        self, messages: Sequence[Mapping[str, str]], *, stream: Literal[False] = False, **options: "Unpack[Options]"
    ) -> Coroutine[Any, Any, Generation]: ...
    @overload
    def chat(
        self, messages: Sequence[Mapping[str, str]], *, stream: Literal[True], **options: "Unpack[Options]"
    ) -> AsyncStream: ...
    @spelled_out
    def chat(
        self, messages: Sequence[Mapping[str, str]], *, stream: bool = False, **options: "Unpack[Options]"
    ) -> Coroutine[Any, Any, Generation] | AsyncStream:
        """Await for the model's answer to `messages`, or iterate with `stream=True`; see `Client.chat`."""
        return self._answer(chatting(self._named(options.get("model")), messages, stream, options), options)

    async def infer(
        self,
        model: str | None = None,
        /,
        *,
        inputs: Mapping[str, object] | None = None,
        outputs: Sequence[str] | str | None = None,
        parameters: Mapping[str, Parameter] | None = None,
        timeout: float | None = None,
        **arrays: object,
    ) -> dict[str, Array]:
        """Ask any model: its inputs by name, its outputs by name, as numpy arrays; see `Client.infer`."""
        given = one_mapping(inputs, arrays)
        return await self._run(inferring(self._named(model), given, outputs, parameters, self._configs), timeout)

    async def ready(self, *, timeout: float | None = None) -> bool:
        """Tell whether the server is there and all its models are loaded; see `Client.ready`."""
        return await self._run(probing(None), timeout)

    async def model_ready(self, model: str | None = None, *, timeout: float | None = None) -> bool:
        """Tell whether `model` is loaded; see `Client.model_ready`."""
        return await self._run(probing(self._named(model)), timeout)

    async def close(self) -> None:
        """Close all connections. Calls under way in other tasks may end with ClientClosed."""
        self._closed = True
        await self._transport.close()

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _answer(self, call: Generate, options: Options) -> Coroutine[Any, Any, Generation] | AsyncStream:
        deadline = self._deadline(options.get("timeout"))
        stream = AsyncStream(lambda: self._transport.stream(call, deadline), self._typed(call, deadline))
        return stream if call.stream else _whole(stream)

    async def _run(self, flow: Flow[Result], timeout: float | None) -> Result:
        deadline = self._deadline(timeout)
        try:
            calls = next(flow)
            while True:
                try:
                    answers = await self._perform(calls, deadline)
                except TritonyardError as error:
                    calls = flow.throw(error)
                else:
                    calls = flow.send(answers)
        except StopIteration as end:
            result: Result = end.value
            return result

    async def _perform(self, calls: Sequence[Call], deadline: Deadline) -> list[Any]:
        """Return the answers to `calls` in order; the first error gives up what is under way."""
        if len(calls) == 1:
            return [await self._ask(calls[0], deadline)]
        window: deque[asyncio.Task[Any]] = deque()
        answers = []
        try:
            for call in calls:
                if len(window) == self.concurrency:
                    answers.append(await window[0])
                    window.popleft()
                window.append(asyncio.ensure_future(self._ask(call, deadline)))
            while window:
                answers.append(await window[0])
                window.popleft()
            return answers
        finally:
            for task in window:
                task.cancel()
            await asyncio.gather(*window, return_exceptions=True)

    async def _ask(self, call: Call, deadline: Deadline) -> Any:
        with self._typed(call, deadline):
            return await self._transport.ask(call, deadline)


async def _whole(stream: AsyncStream) -> Generation:
    async for _ in stream:
        pass
    return generation(stream)


def _connect(connection: Connection) -> AsyncTransport:
    # Each protocol loads its own libraries only.
    if connection.address.is_grpc:
        from tritonyard._grpc import AsyncGrpcTransport

        return AsyncGrpcTransport(connection)
    from tritonyard._http_async import AsyncHttpTransport

    return AsyncHttpTransport(connection)
