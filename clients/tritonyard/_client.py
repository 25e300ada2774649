"""The synchronous client, and the driver that carries a flow's calls over a transport."""

import contextlib
from collections import deque
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, overload

from tritonyard._base import BaseClient
from tritonyard._connection import Connection, Token
from tritonyard._datatype import Array
from tritonyard._driver import carried_out
from tritonyard._errors import TritonyardError
from tritonyard._flight import Flight, headers_of
from tritonyard._flows import Embeddings, Flow, Result, embedding, probing
from tritonyard._generation import Generation
from tritonyard._growth import generation
from tritonyard._infer import inferring, one_mapping
from tritonyard._mock import MockTransport
from tritonyard._options import Options, answers_of, chatting, prompting, spelled_out
from tritonyard._policy import Send, Wait
from tritonyard._shared_memory import PARTING_S, parting
from tritonyard._stream import Stream
from tritonyard._tracing import Operation
from tritonyard._transport import Call, Generate, Parameter, Refused, Transport

if TYPE_CHECKING:
    from typing_extensions import Unpack


class Client(BaseClient[Transport, Token]):
    """A client of a Triton server, or of several alike, over gRPC (`grpc://host:port`, the default) or HTTP (`http://host:port`).

    `model` is used where a call names none. `timeout` (seconds) is the budget of a whole call, all its
    requests together. `concurrency` is how many requests of one call are under way at once. Safe to use from
    many threads, and from greenlets (`grpc.experimental.gevent.init_gevent()` first). Use it as a context
    manager, or call `close()`. `urls`, `model`, `timeout` and `concurrency` tell what it was made with.

    `url` may be a list: calls go to its addresses in turn, each is asked whether it is ready before its first call and
    after it failed, and what one cannot take goes to the next. `retry` says how often and when a call is sent again,
    where that cannot make a server do it twice: nobody was there, or the server had not begun. Where the connection
    breaks before the first of the answer, only what is idempotent is sent again: `embed` is, `infer`, `generate` and
    `chat` are if their `idempotent` says so. `on_event` is told of each such decision (Event); `tracer`, of
    OpenTelemetry, gets a span of each call and of each attempt, which goes with the request as `traceparent`.

    `grpcs://` and `https://` are encrypted, with the PEM files that `tls` names. `headers` go with every request, and
    `token` as its bearer token: a str, or a callable that is asked before each request (keep a token there until it is
    to be renewed; an error of yours comes out of the method). `compression` ("gzip" or "deflate") is for what is sent;
    over HTTP only `embed` and `infer` can be. With `shared_memory` large tensors of `infer` are not sent: they lie in
    memory that a server on this host shares (Linux; its shared-memory protocol must be open to the caller).
    `transport` takes the place of a server in tests.

    Raises InvalidRequest: an argument is out of range, or a file of `tls` is not what it should be.
    """

    def embed(
        self,
        texts: Sequence[str] | str,
        *,
        model: str | None = None,
        truncate: bool = False,
        timeout: float | None = None,
    ) -> Embeddings:
        """Return the embeddings of `texts`, FP32 [n, hidden], row for text; one str is one text: [1, hidden].

        Any number of texts: they are sorted by length, cut into requests, and several are under way at once.
        The first error cancels the others. No texts give [0, hidden].

        `truncate` lets the server cut a text that is too long for the model; otherwise it refuses the call.
        `timeout` (seconds) replaces the client's own.

        Raises InvalidRequest (a text is not a str, not UTF-8 or too long; the message has its index),
        ModelNotFound, AccessDenied, DeadlineExceeded, ServerUnavailable, ServerOverloaded, ServerFailed,
        ClientClosed.
        """
        name = self._named(model)
        with self._operation("embed", name, timeout) as operation:
            return self._run(embedding(texts, name, truncate, self._configs), operation)

    @overload
    def generate(self, prompt: str, *, stream: Literal[False] = False, **options: "Unpack[Options]") -> Generation: ...
    @overload
    def generate(self, prompt: str, *, stream: Literal[True], **options: "Unpack[Options]") -> Stream: ...
    @spelled_out
    def generate(self, prompt: str, *, stream: bool = False, **options: "Unpack[Options]") -> Generation | Stream:
        """Return what the model writes after `prompt`; with `stream=True` an iterable of Delta, while it writes.

        `max_tokens` and `min_tokens` count new tokens; the answer ends before the first of the texts in `stop`.
        Greedy unless `temperature`, `top_k`, `top_p` or `min_p` is given; `temperature=0` is greedy too. The same
        `seed` gives the same answer. `json_schema`, `regex`, `grammar` or `json` is what the answer follows. `n` asks
        for so many answers, the `choices` of what comes back; `log_probs` and `top_logprobs` for how likely their
        tokens were. `idempotent` allows it to be written twice, where the connection breaks before the first answer.
        `model` and `timeout` (seconds, from this call to the last token) replace the client's own. Options says what
        the others do; what is None is left to the server. An option that the model lacks is refused by its name.

        Leaving the loop over a Stream cancels the request. Both also tell `usage` (tokens) and `timing` (seconds).

        Raises InvalidRequest (an argument cannot be sent, or the server refused it), and else what `Client.embed`
        raises; with `stream=True` the server's errors come out of the loop.
        """
        call = prompting(self._named(options.get("model")), prompt, stream, options)
        return self._answer("generate", call, options.get("timeout"))

    @overload
    def chat(
        self, messages: Sequence[Mapping[str, str]], *, stream: Literal[False] = False, **options: "Unpack[Options]"
    ) -> Generation: ...
    @overload
    def chat(
        self, messages: Sequence[Mapping[str, str]], *, stream: Literal[True], **options: "Unpack[Options]"
    ) -> Stream: ...
    @spelled_out
    def chat(
        self, messages: Sequence[Mapping[str, str]], *, stream: bool = False, **options: "Unpack[Options]"
    ) -> Generation | Stream:
        """Return the model's answer to `messages`, each {"role": ..., "content": ...}; else as `Client.generate`.

        The checkpoint's own chat template makes one prompt of them.
        """
        call = chatting(self._named(options.get("model")), messages, stream, options)
        return self._answer("chat", call, options.get("timeout"))

    def infer(
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
        """Ask any model: its inputs by name, its outputs by name, as numpy arrays.

        Names, datatypes and shapes are the server's own: the model's configuration is fetched once, and again after
        an error. Where the model batches (`max_batch_size` above 0) the first dimension is the batch.

        An array must have the input's own dtype. Lists and scalars are converted where they lose nothing but digits
        (0.1 to FP32), and may leave out dimensions of 1 at the end of their shape: `["a", "b"]` is BYTES [2, 1]. BYTES
        takes str (sent as UTF-8) and bytes, and comes back as an array of objects of type bytes. BF16 is an array of
        `ml_dtypes.bfloat16`, for which that package must be installed. Optional inputs may be left out.

        `inputs` is for tensors whose names are not Python's, or are those of other arguments. `outputs` names what is
        wanted, all if it is None. `parameters` are the request's own, such as sequence_id. `idempotent` allows it to be
        done twice, where the connection breaks before the answer. `timeout` (seconds) replaces the client's own.

        The arrays that come back are views of the answer, for most datatypes read-only: `copy()` one to write to it.

        Raises InvalidRequest (an input is unknown, missing, or of another dtype or shape than the model declares, or
        the model is decoupled; nothing has been sent), and else what `Client.embed` raises.
        """
        name, given = self._named(model), one_mapping(inputs, arrays)
        with self._operation("infer", name, timeout) as operation:
            flow = inferring(name, given, outputs, parameters, idempotent, self._configs, self._segments)
            return self._run(flow, operation)

    def ready(self, *, timeout: float | None = None) -> bool:
        """Tell whether the server is there and all its models are loaded; one that is not there is not ready.

        Of several addresses one is enough. `timeout` (seconds) replaces the client's own.

        Raises AccessDenied (the server does not say it to everyone), ClientClosed.
        """
        with self._operation("ready", None, timeout) as operation:
            return self._run(probing(None), operation)

    def model_ready(self, model: str | None = None, *, timeout: float | None = None) -> bool:
        """Tell whether `model` is loaded; an unknown model is not ready; else as `Client.ready`.

        Raises AccessDenied (the server does not say it to everyone), ClientClosed.
        """
        name = self._named(model)
        with self._operation("model_ready", name, timeout) as operation:
            return self._run(probing(name), operation)

    def close(self) -> None:
        """Close all connections. Calls under way in other threads may end with ClientClosed."""
        if self._segments is not None and not self._policy.closed.is_set():
            with contextlib.suppress(TritonyardError), self._operation("close", None, PARTING_S) as operation:
                self._run(parting(self._segments), operation)
        self._policy.closed.set()
        for each in self._endpoints.all:
            each.transport.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _reach(self, connection: Connection, mock: MockTransport | None) -> Transport:
        if mock is not None:
            return mock
        # Each protocol loads its own libraries only.
        if connection.address.is_grpc:
            from tritonyard._grpc import GrpcTransport

            return GrpcTransport(connection)
        from tritonyard._http_sync import HttpTransport

        return HttpTransport(connection)

    def _answer(self, method: str, call: Generate, timeout: float | None) -> Generation | Stream:
        operation = self._operation(method, call.model, timeout)
        stream = Stream(self._policy.attempts(call, operation), self._do, operation, answers_of(call))
        if call.stream:
            return stream
        for _ in stream:
            pass
        return generation(stream)

    def _run(self, flow: Flow[Result], operation: Operation) -> Result:
        try:
            calls = next(flow)
            while True:
                try:
                    answers = self._perform(calls, operation)
                except TritonyardError as error:
                    calls = flow.throw(error)
                else:
                    calls = flow.send(answers)
        except StopIteration as end:
            result: Result = end.value
            return result

    def _perform(self, calls: Sequence[Call], operation: Operation) -> list[Any]:
        """Return the answers to `calls` in order; the first error gives up what is under way."""
        if len(calls) == 1:
            return [self._ask(calls[0], operation)]
        window: deque[Flight] = deque()
        answers = []
        try:
            for call in calls:
                if len(window) == self.concurrency:
                    answers.append(self._oldest(window))
                window.append(Flight(self._policy.attempts(call, operation), self._do))
            while window:
                answers.append(self._oldest(window))
            return answers
        finally:
            for flight in window:
                flight.cancel()

    def _ask(self, call: Call, operation: Operation) -> Any:
        """Return the answer to a call that is under way by itself."""
        alone = self._policy.alone
        if alone is None or operation.is_traced:
            steps = self._policy.attempts(call, operation)
            return carried_out(steps, next(steps), self._do)
        try:
            return alone.transport.ask(call, operation.deadline, alone.connection.headers())
        except Refused as refused:
            failure = refused
        # From here on as if the first step had come to that.
        steps = self._policy.attempts(call, operation)
        next(steps)
        return carried_out(steps, steps.throw(failure), self._do)

    def _oldest(self, window: "deque[Flight]") -> Any:
        """Wait for the oldest call under way: a server takes them in turn, the others are hardly ahead."""
        answer = window[0].result()
        window.popleft()
        return answer

    def _do(self, step: Send[Transport] | Wait) -> Any:
        """Do one step and wait for what comes of it: the answer to a call, to a Generate what its answers come from."""
        if isinstance(step, Wait):
            self._policy.closed.wait(step.seconds)
            return None
        transport = step.endpoint.transport
        if isinstance(step.call, Generate):
            return transport.stream(step.call, step.deadline, headers_of(step))
        return transport.ask(step.call, step.deadline, headers_of(step))
