"""The asynchronous client, and the driver that carries a flow's calls over a transport."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Coroutine, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, overload

from tritonyard._base import BaseClient
from tritonyard._connection import AsyncToken, Connection
from tritonyard._datatype import Array
from tritonyard._driver import async_carried_out
from tritonyard._errors import TritonyardError
from tritonyard._flows import Embeddings, Flow, Result, embedding, probing
from tritonyard._generation import Generation
from tritonyard._growth import generation
from tritonyard._infer import inferring, one_mapping
from tritonyard._mock import MockTransport
from tritonyard._options import Options, answers_of, chatting, prompting, spelled_out
from tritonyard._policy import Send, Wait
from tritonyard._shared_memory import PARTING_S, parting
from tritonyard._stream import AsyncStream
from tritonyard._tracing import Operation
from tritonyard._transport import AsyncTransport, Call, Generate, Parameter, Refused

if TYPE_CHECKING:
    from typing_extensions import Unpack


class AsyncClient(BaseClient[AsyncTransport, AsyncToken]):
    """The asynchronous Client: the same methods, results and errors, to be awaited.

    It belongs to the event loop of its first call. Use it as an async context manager, or await `close()`. `token` may
    be an async callable too; waiting for it is part of the call's timeout.
    Cancelling a task that waits here cancels its requests.
    """

    async def embed(
        self,
        texts: Sequence[str] | str,
        *,
        model: str | None = None,
        truncate: bool = False,
        timeout: float | None = None,
    ) -> Embeddings:
        """Return the embeddings of `texts`, FP32 [n, hidden], row for text; see `Client.embed`."""
        name = self._named(model)
        with self._operation("embed", name, timeout) as operation:
            return await self._run(embedding(texts, name, truncate, self._configs), operation)

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
        """Return what the model writes after `prompt`, to be awaited; with `stream=True` an AsyncStream, not awaited.

        Else as `Client.generate`.
        """
        call = prompting(self._named(options.get("model")), prompt, stream, options)
        return self._answer("generate", call, options.get("timeout"))

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
        """Return the model's answer to `messages`, to be awaited; with `stream=True` an AsyncStream, not awaited.

        Else as `Client.chat`.
        """
        call = chatting(self._named(options.get("model")), messages, stream, options)
        return self._answer("chat", call, options.get("timeout"))

    async def infer(
        self,
        model: str | None = None,
        /,
        *,
        inputs: Mapping[str, object] | None = None,
        outputs: Sequence[str] | str | None = None,
        parameters: Mapping[str, Parameter] | None = None,
        idempotent: bool = False,
        timeout: float | None = None,
        **arrays: object,
    ) -> dict[str, Array]:
        """Ask any model: its inputs by name, its outputs by name, as numpy arrays; see `Client.infer`."""
        name, given = self._named(model), one_mapping(inputs, arrays)
        with self._operation("infer", name, timeout) as operation:
            flow = inferring(name, given, outputs, parameters, idempotent, self._configs, self._segments)
            return await self._run(flow, operation)

    async def ready(self, *, timeout: float | None = None) -> bool:
        """Tell whether the server is there and all its models are loaded; see `Client.ready`."""
        with self._operation("ready", None, timeout) as operation:
            return await self._run(probing(None), operation)

    async def model_ready(self, model: str | None = None, *, timeout: float | None = None) -> bool:
        """Tell whether `model` is loaded; see `Client.model_ready`."""
        name = self._named(model)
        with self._operation("model_ready", name, timeout) as operation:
            return await self._run(probing(name), operation)

    async def close(self) -> None:
        """Close all connections. Calls under way in other tasks may end with ClientClosed."""
        if self._segments is not None and not self._policy.closed.is_set():
            with contextlib.suppress(TritonyardError), self._operation("close", None, PARTING_S) as operation:
                await self._run(parting(self._segments), operation)
        self._policy.closed.set()
        for each in self._endpoints.all:
            await each.transport.close()

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _reach(self, connection: Connection, mock: MockTransport | None) -> AsyncTransport:
        if mock is not None:
            return mock.awaited()
        # Each protocol loads its own libraries only.
        if connection.address.is_grpc:
            from tritonyard._grpc import AsyncGrpcTransport

            return AsyncGrpcTransport(connection)
        from tritonyard._http_async import AsyncHttpTransport

        return AsyncHttpTransport(connection)

    def _answer(
        self, method: str, call: Generate, timeout: float | None
    ) -> Coroutine[Any, Any, Generation] | AsyncStream:
        operation = self._operation(method, call.model, timeout)
        stream = AsyncStream(self._policy.attempts(call, operation), self._do, operation, answers_of(call))
        return stream if call.stream else _whole(stream)

    async def _run(self, flow: Flow[Result], operation: Operation) -> Result:
        try:
            calls = next(flow)
            while True:
                try:
                    answers = await self._perform(calls, operation)
                except TritonyardError as error:
                    calls = flow.throw(error)
                else:
                    calls = flow.send(answers)
        except StopIteration as end:
            result: Result = end.value
            return result

    async def _perform(self, calls: Sequence[Call], operation: Operation) -> list[Any]:
        """Return the answers to `calls` in order; the first error gives up what is under way."""
        if len(calls) == 1:
            return [await self._ask(calls[0], operation)]
        window: deque[asyncio.Task[Any]] = deque()
        answers = []
        try:
            for call in calls:
                if len(window) == self.concurrency:
                    answers.append(await window[0])
                    window.popleft()
                window.append(asyncio.ensure_future(self._ask(call, operation)))
            while window:
                answers.append(await window[0])
                window.popleft()
            return answers
        finally:
            for task in window:
                task.cancel()
            await asyncio.gather(*window, return_exceptions=True)

    async def _ask(self, call: Call, operation: Operation) -> Any:
        """Return the answer to a call."""
        alone = self._policy.alone
        if alone is None or operation.is_traced:
            steps = self._policy.attempts(call, operation)
            return await async_carried_out(steps, next(steps), self._do)
        try:
            headers = await alone.connection.awaited_headers(operation.deadline)
            return await alone.transport.ask(call, operation.deadline, headers)
        except Refused as refused:
            failure = refused
        # From here on as if the first step had come to that.
        steps = self._policy.attempts(call, operation)
        next(steps)
        return await async_carried_out(steps, steps.throw(failure), self._do)

    async def _do(self, step: Send[AsyncTransport] | Wait) -> Any:
        """Do one step and wait for what comes of it: the answer to a call, to a Generate what its answers come from."""
        if isinstance(step, Wait):
            return await asyncio.sleep(step.seconds)
        headers = await step.endpoint.connection.awaited_headers(step.deadline) + step.headers
        transport = step.endpoint.transport
        if isinstance(step.call, Generate):
            return transport.stream(step.call, step.deadline, headers)
        return await transport.ask(step.call, step.deadline, headers)


async def _whole(stream: AsyncStream) -> Generation:
    async for _ in stream:
        pass
    return generation(stream)
