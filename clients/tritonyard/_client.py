"""The synchronous client, and the driver that carries a flow's calls over a transport."""

from collections import deque
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, overload

from tritonyard._base import BaseClient
from tritonyard._connection import DEFAULT_URL, Address, Compression, Connection, Tls, Token
from tritonyard._datatype import Array
from tritonyard._errors import TritonyardError
from tritonyard._flows import Embeddings, Flow, Result, embedding, probing
from tritonyard._generation import Generation, Options, chatting, prompting, spelled_out
from tritonyard._infer import inferring, one_mapping
from tritonyard._mock import MockTransport
from tritonyard._stream import Stream, generation
from tritonyard._transport import Call, Deadline, Generate, Parameter, Pending, Transport

if TYPE_CHECKING:
    from typing_extensions import Unpack


class Client(BaseClient):
    """A client of one Triton server, over gRPC (`grpc://host:port`, the default) or HTTP (`http://host:port`).

    `model` is used where a call names none. `timeout` (seconds) is the budget of a whole call, all its
    requests together. `concurrency` is how many requests of one call are under way at once. Safe to use from
    many threads, and from greenlets (`grpc.experimental.gevent.init_gevent()` first). Use it as a context
    manager, or call `close()`.

    `grpcs://` and `https://` are encrypted, with the PEM files that `tls` names. `headers` go with every request, and
    `token` as its bearer token: a str, or a callable that is asked before each request (keep a token there until it is
    to be renewed; an error of yours comes out of the method). `compression` ("gzip" or "deflate") is for what is sent;
    over HTTP only `embed` and `infer` can be. `transport` takes the place of a server in tests.

    Raises InvalidRequest: an argument is out of range, or a file of `tls` is not what it should be.
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
        token: Token | None = None,
        compression: Compression | None = None,
        transport: MockTransport | None = None,
    ):
        connection = Connection(Address(url), tls, headers, token, compression)
        super().__init__(connection, model, timeout, concurrency)
        self._transport: Transport = transport if transport is not None else _connect(connection)

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
        return self._run(embedding(texts, self._named(model), truncate, self._configs), timeout)

    @overload
    def generate(self, prompt: str, *, stream: Literal[False] = False, **options: "Unpack[Options]") -> Generation: ...
    @overload
    def generate(self, prompt: str, *, stream: Literal[True], **options: "Unpack[Options]") -> Stream: ...
    @spelled_out
    def generate(self, prompt: str, *, stream: bool = False, **options: "Unpack[Options]") -> Generation | Stream:
        """Return what the model writes after `prompt`; with `stream=True` an iterable of Delta, while it writes.

        `max_tokens` and `min_tokens` count new tokens; the answer ends before the first of the texts in `stop`.
        Greedy unless `temperature`, `top_k` or `top_p` is given; `temperature=0` is greedy too. The same `seed`
        gives the same answer. What is None is left to the server. `model` and `timeout` (seconds, from this call
        to the last token) replace the client's own.

        Leaving the loop over a Stream cancels the request. Both also tell `usage` (tokens) and `timing` (seconds).

        Raises InvalidRequest (an argument cannot be sent, or the server refused it), and else what `embed` raises;
        with `stream=True` the server's errors come out of the loop.
        """
        return self._answer(prompting(self._named(options.get("model")), prompt, stream, options), options)

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
        """Return the model's answer to `messages`, each {"role": ..., "content": ...}; else as `generate`.

        The checkpoint's own chat template makes one prompt of them.
        """
        return self._answer(chatting(self._named(options.get("model")), messages, stream, options), options)

    def infer(
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
        """Ask any model: its inputs by name, its outputs by name, as numpy arrays.

        Names, datatypes and shapes are the server's own: the model's configuration is fetched once, and again after
        an error. Where the model batches (`max_batch_size` above 0) the first dimension is the batch.

        An array must have the input's own dtype. Lists and scalars are converted where they lose nothing but digits
        (0.1 to FP32), and may leave out dimensions of 1 at the end of their shape: `["a", "b"]` is BYTES [2, 1]. BYTES
        takes str (sent as UTF-8) and bytes, and comes back as an array of objects of type bytes. BF16 is an array of
        `ml_dtypes.bfloat16`, for which that package must be installed. Optional inputs may be left out.

        `inputs` is for tensors whose names are not Python's, or are those of other arguments. `outputs` names what is
        wanted, all if it is None. `parameters` are the request's own, such as sequence_id. `timeout` (seconds)
        replaces the client's own. The arrays that come back are views of the answer, for most datatypes read-only:
        `copy()` one to write to it.

        Raises InvalidRequest (an input is unknown, missing, or of another dtype or shape than the model declares, or
        the model is decoupled; nothing has been sent), and else what `embed` raises.
        """
        given = one_mapping(inputs, arrays)
        return self._run(inferring(self._named(model), given, outputs, parameters, self._configs), timeout)

    def ready(self, *, timeout: float | None = None) -> bool:
        """Tell whether the server is there and all its models are loaded; one that is not there is not ready.

        Raises AccessDenied: the server does not say it to everyone.
        """
        return self._run(probing(None), timeout)

    def model_ready(self, model: str | None = None, *, timeout: float | None = None) -> bool:
        """Tell whether `model` is loaded; an unknown model is not ready.

        Raises AccessDenied: the server does not say it to everyone.
        """
        return self._run(probing(self._named(model)), timeout)

    def close(self) -> None:
        """Close all connections. Calls under way in other threads may end with ClientClosed."""
        self._closed = True
        self._transport.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _answer(self, call: Generate, options: Options) -> Generation | Stream:
        deadline = self._deadline(options.get("timeout"))
        stream = Stream(lambda: self._transport.stream(call, deadline), self._typed(call, deadline))
        if call.stream:
            return stream
        for _ in stream:
            pass
        return generation(stream)

    def _run(self, flow: Flow[Result], timeout: float | None) -> Result:
        deadline = self._deadline(timeout)
        try:
            calls = next(flow)
            while True:
                try:
                    answers = self._perform(calls, deadline)
                except TritonyardError as error:
                    calls = flow.throw(error)
                else:
                    calls = flow.send(answers)
        except StopIteration as end:
            result: Result = end.value
            return result

    def _perform(self, calls: Sequence[Call], deadline: Deadline) -> list[Any]:
        """Return the answers to `calls` in order; the first error gives up what is under way."""
        if len(calls) == 1:
            with self._typed(calls[0], deadline):
                return [self._transport.ask(calls[0], deadline)]
        window: deque[tuple[Call, Pending]] = deque()
        answers = []
        try:
            for call in calls:
                if len(window) == self.concurrency:
                    answers.append(self._oldest(window, deadline))
                with self._typed(call, deadline):
                    window.append((call, self._transport.start(call, deadline)))
            while window:
                answers.append(self._oldest(window, deadline))
            return answers
        finally:
            for _, pending in window:
                pending.cancel()

    def _oldest(self, window: deque[tuple[Call, Pending]], deadline: Deadline) -> Any:
        """Wait for the oldest call under way: a server takes them in turn, the others are hardly ahead."""
        call, pending = window[0]
        with self._typed(call, deadline):
            answer = pending.result()
        window.popleft()
        return answer


def _connect(connection: Connection) -> Transport:
    # Each protocol loads its own libraries only.
    if connection.address.is_grpc:
        from tritonyard._grpc import GrpcTransport

        return GrpcTransport(connection)
    from tritonyard._http_sync import HttpTransport

    return HttpTransport(connection)
