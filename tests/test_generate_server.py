"""Text generation through the real tritonserver, held against the plain loop over the same engine."""

import http.client
import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from few_slots import few_slots
from served_metrics import value
from tokenizers import Tokenizer

from pipeline.fidelity import PlainDecoder
from pipeline.greedy import GreedyDecoder
from pipeline.plan import Plan
from pipeline.store import Artefact
from serving import supervisor
from serving.ports import free_ports
from serving.server import Server
from tritonyard import Client, Delta, Generation, InvalidRequest, ServerFailed, ServerOverloaded, TritonyardError
from yard.checkout import BACKENDS

pytestmark = [pytest.mark.server, pytest.mark.alone]

MODEL = "smollm2"
DECODER = {"model": "smollm2_decoder"}
SLOTS = 16
# Of how many prompts the plain loop says how many tokens: it takes its time, and says them once for all tests.
PROMPTS, LIMIT = 32, 40
SUBJECTS = ("rain", "Rome", "cats", "the sea", "iron", "bread", "chess", "old maps")
# From the cancel's start at the caller to the engine's last token, in steps of the engine. Six of them are the rest
# between two responses: on a machine that others use too, a few cancels in a hundred take longer, but none LONGEST.
STEPS_TO_CANCEL, LONGEST = 8, 40


class Oracle:
    """What greedy decoding gives: the engine alone, one request at a time, remembered."""

    def __init__(self, folder: Path, decoder: PlainDecoder):
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._end_ids = json.loads((folder / "decoder.json").read_text())["end_ids"]
        self._decoder = decoder
        self._known: dict[str, tuple[int, list[int]]] = {}

    def ids(self, prompt: str, max_tokens: int) -> list[int]:
        """The answer; one that was asked for with more tokens begins with it."""
        asked, answer = self._known.get(prompt, (0, []))
        if asked < max_tokens:
            answer = self._decoder.generate_greedy(self.tokenizer.encode(prompt).ids, max_tokens, self._end_ids)
            self._known[prompt] = max_tokens, answer
        return answer[:max_tokens]

    def text(self, prompt: str, max_tokens: int) -> str:
        text: str = self.tokenizer.decode(self.ids(prompt, max_tokens), skip_special_tokens=True)
        return text


@pytest.fixture(scope="module")
def oracle(smollm2: tuple[Plan, Artefact]) -> Oracle:
    return Oracle(smollm2[1].folder, GreedyDecoder(smollm2[1].folder, 1, 1024))


@pytest.fixture
def settled(server: Server) -> Iterator[Server]:
    """The shared server, with nothing of a test left in it afterwards."""
    yield server
    wait_until(lambda: value(server.metrics_url, "slots_used", **DECODER) == 0)
    wait_until(lambda: value(server.metrics_url, "requests_waiting", **DECODER) == 0)
    wait_until(lambda: value(server.metrics_url, "detokenizer_streams") == 0)


def wait_until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


def prompt(number: int) -> str:
    """A prompt of about 10 to 250 tokens that the model goes on from at length."""
    story = f"Story {number}. Once upon a time there was an old man who knew all about {SUBJECTS[number % 8]}. He"
    return " ".join([f"It is {number} past noon and nobody came."] * (number % 5 * 5) + [story])


def text_of(deltas: list[Delta]) -> str:
    assert [delta.finish_reason for delta in deltas[:-1]] == [None] * (len(deltas) - 1)
    assert deltas[-1].finish_reason
    return "".join(delta.text for delta in deltas)


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_32_prompts_that_join_and_leave_at_random_get_the_reference_token_for_token(
    settled: Server, oracle: Oracle, scheme: str
) -> None:
    draw = random.Random(7)
    asked = [(prompt(number), draw.randint(1, LIMIT), draw.random() * 2.0) for number in range(PROMPTS)]
    url = settled.grpc_url if scheme == "grpc" else settled.http_url

    def ask(case: tuple[str, int, float]) -> list[Delta]:
        text, limit, delay_s = case
        time.sleep(delay_s)
        return list(client.generate(text, max_tokens=limit, stream=True))

    with Client(url, model=MODEL, timeout=60) as client, ThreadPoolExecutor(PROMPTS) as pool:
        answers = list(pool.map(ask, asked))
    for (text, limit, _), deltas in zip(asked, answers, strict=True):
        want = oracle.ids(text, LIMIT)[:limit]
        assert text_of(deltas) == oracle.text(text, limit)
        assert deltas[-1].num_output_tokens == len(want)
        assert deltas[-1].num_input_tokens == len(oracle.tokenizer.encode(text).ids)
        assert deltas[-1].finish_reason == ("length" if len(want) == limit else "stop")


def test_shared_prefixes_are_computed_once_and_change_no_token(settled: Server, oracle: Oracle) -> None:
    """Nearly equal prompts, at once and again: one word differs, nearer to the end or to the beginning."""
    draw = random.Random(3)
    system = [draw.choice(SUBJECTS) for _ in range(102)]
    asked = []
    for number in range(6):
        words = [*system[: 100 - 3 * number**2], "and", *system[100 - 3 * number**2 :]]
        asked.append(f"{' '.join(words)}. Story {number}: an old man")
    lengths = [len(oracle.tokenizer.encode(text).ids) for text in asked]
    # The oracle takes a prompt in one piece: its last token would go through the kernels of decoding.
    assert [length for length in lengths if length % 128 == 1] == []
    done, before = finished(settled), cached_tokens(settled, 0)
    with Client(settled.grpc_url, model=MODEL, timeout=60) as client, ThreadPoolExecutor(3) as pool:
        for _ in range(2):
            answers = list(pool.map(lambda text: client.generate(text, max_tokens=12), asked))
            assert [answer.text for answer in answers] == [oracle.text(text, 12) for text in asked]
            assert [answer.num_input_tokens for answer in answers] == lengths
    # The second time all but two tokens of each; the first time more than half of what they share.
    assert cached_tokens(settled, done + 12) - before > sum(lengths) - 12 + 5 * 50


def finished(server: Server) -> float:
    """How many requests were counted as answered in full."""
    reasons = ("stop", "length")
    return sum(value(server.metrics_url, "requests_finished", **DECODER, finish_reason=each) for each in reasons)


def cached_tokens(server: Server, done: float) -> float:
    """The input tokens that were not computed, once so many requests are counted."""
    wait_until(lambda: finished(server) >= done)
    return value(server.metrics_url, "cached_tokens", **DECODER)


def test_a_salt_keeps_what_was_computed_from_others(settled: Server) -> None:
    text, found = "Seven old men met under one tree and spoke of the harvest. " * 3, []
    for salt in ({}, {}, {"cache_salt": "a"}, {"cache_salt": "a"}, {"parameters": {"cache_salt": "b"}}):
        done, before = finished(settled), cached_tokens(settled, 0)
        status, _ = post(settled, "generate", json.dumps({"text_input": text, "max_tokens": 2, **salt}).encode())
        assert status == 200
        found.append(cached_tokens(settled, done + 1) - before)
    assert [number > 30 for number in found] == [False, True, False, True, False]


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_not_streamed_is_the_same_text_in_one_piece(settled: Server, oracle: Oracle, scheme: str) -> None:
    with Client(settled.grpc_url if scheme == "grpc" else settled.http_url, model=MODEL) as client:
        answer = client.generate(prompt(3), max_tokens=30)
        streamed = list(client.generate(prompt(3), max_tokens=30, stream=True))
    assert answer.text == text_of(streamed) == oracle.text(prompt(3), 30)
    assert len(streamed) > 10


def test_stop_strings_cut_from_real_answers(settled: Server, oracle: Oracle) -> None:
    draw, cases = random.Random(5), []
    for number in range(40):
        text = prompt(number % PROMPTS)
        whole = oracle.text(text, LIMIT)
        start = draw.randrange(len(whole) - 1)
        cases.append((text, whole, whole[start : start + draw.randint(1, 12)], number % 4 > 0))

    def ask(case: tuple[str, str, str, bool]) -> None:
        text, whole, stop, stream = case
        asked = client.generate(text, max_tokens=LIMIT, stop=["never said", stop], stream=stream)
        answer = asked if isinstance(asked, Generation) else None
        deltas = [] if isinstance(asked, Generation) else list(asked)
        found = answer.text if answer else text_of(deltas)
        assert found == whole[: whole.index(stop)], (whole, stop)
        assert (answer or deltas[-1]).finish_reason == "stop"

    with Client(settled.grpc_url, model=MODEL, timeout=60) as client, ThreadPoolExecutor(8) as pool:
        for case in cases[:12]:
            ask(case)  # a stream that is alone is drafted for
        list(pool.map(ask, cases[12:]))


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_ends_the_work_too(settled: Server, oracle: Oracle, stream: bool) -> None:
    whole = oracle.text(prompt(3), 40)
    done, tokens = counted(settled.metrics_url)
    with Client(settled.grpc_url, model=MODEL) as client:
        asked = client.generate(prompt(3), max_tokens=700, min_tokens=700, stop=[whole[30:36]], stream=stream)
        last = asked if isinstance(asked, Generation) else list(asked)[-1]
    wait_until(lambda: counted(settled.metrics_url)[0] == done + 1)
    assert last.num_output_tokens <= counted(settled.metrics_url)[1] - tokens <= last.num_output_tokens + 8 < 40


def test_200_cancels_at_random_moments(settled: Server, oracle: Oracle) -> None:
    """Running, prefilling and waiting, gRPC and HTTP: the slot is free soon, nothing stays, others are untouched."""
    draw = random.Random(11)
    url, over = settled.metrics_url, threading.Event()
    wrong: list[str] = []
    overshoot: list[float] = []
    unseen = 0

    def others(number: int) -> None:
        with Client(settled.grpc_url, model=MODEL, timeout=120) as client:
            while not over.is_set():
                answer = client.generate(prompt(number), max_tokens=40)
                if answer.text != oracle.text(prompt(number), 40):
                    wrong.append(answer.text)

    for number in (1, 2):
        oracle.text(prompt(number), 40)
    with Client(settled.grpc_url, model=MODEL) as over_grpc, Client(settled.http_url, model=MODEL) as over_http:
        touch_all_slots(over_grpc)
        before = memory(settled)
        threads = [threading.Thread(target=others, args=(number,)) for number in (1, 2)]
        for thread in threads:
            thread.start()
        for case in range(200):
            done, tokens = counted(url)
            seen = cancel_once(over_http if case % 2 else over_grpc, draw, draw.choice([0, 0, 1, 2, 5, 9]))
            if cancel_was_counted(url, done):
                overshoot.append(counted(url)[1] - tokens - seen)
            else:
                unseen += 1
        over.set()
        for thread in threads:
            thread.join(60)
    assert wrong == []
    assert unseen <= 20
    overshoot.sort()
    assert overshoot[len(overshoot) * 95 // 100] <= STEPS_TO_CANCEL, overshoot[-20:]
    assert overshoot[-1] < LONGEST
    wait_until(lambda: value(url, "detokenizer_streams") == 0)
    assert memory(settled) - before < 30e6


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_a_cancel_in_mid_prefill_is_seen_within_6_steps(settled: Server, scheme: str) -> None:
    """A prompt of 8 steps, left after a blink: all its steps are counted."""
    url = settled.metrics_url
    before = settled_steps(url)
    with Client(settled.grpc_url if scheme == "grpc" else settled.http_url, model=MODEL) as client:
        stream = client.generate("one two three four five six seven " * 142, max_tokens=9, stream=True)
        timer = threading.Timer(0.02, stream.close)
        timer.start()
        assert list(stream) == []
        timer.join()
    wait_until(lambda: value(url, "detokenizer_streams") == 0)
    assert settled_steps(url) - before <= 6


def settled_steps(url: str) -> float:
    """The engine's steps so far, once its gauges have caught up."""
    time.sleep(0.6)
    return value(url, "engine_steps", **DECODER)


def touch_all_slots(client: Client) -> None:
    """Fill all slots to their ends: KV is memory from its first use."""
    with ThreadPoolExecutor(SLOTS) as pool:
        options = {"max_tokens": 40, "min_tokens": 40, "timeout": 120}
        full = [pool.submit(client.generate, "one two " * 480, **options) for _ in range(SLOTS)]
        assert {future.result().num_output_tokens for future in full} == {40}


def cancel_was_counted(url: str, done: float) -> bool:
    """Wait for one cancelled request more; False if it left before it came to the engine: then nothing is there."""
    with suppress(AssertionError):
        wait_until(lambda: counted(url)[0] == done + 1, timeout_s=3)
        return True
    assert value(url, "slots_used", **DECODER) + value(url, "requests_waiting", **DECODER) <= 2
    assert value(url, "detokenizer_streams") <= 2
    return False


def counted(url: str) -> tuple[float, float]:
    """How many requests were cancelled so far, and how many tokens they had."""
    cancelled = {**DECODER, "finish_reason": "cancelled"}
    return value(url, "requests_finished", **cancelled), value(url, "output_tokens", **cancelled)


def cancel_once(client: Client, draw: random.Random, deltas: int) -> int:
    """Leave a stream after so many deltas, or (0) somewhere in its prefill; return the tokens that it had by then."""
    # Who waits for deltas waits for the prefill first: a long one would only take time.
    long = " ".join(["one two three four five six seven"] * draw.randint(1, 20 if deltas else 100))
    stream = client.generate(long, max_tokens=200, min_tokens=200, stream=True)
    if not deltas:
        timer = threading.Timer(draw.random() * 0.3 + 0.01, stream.close)
        timer.start()
        seen = [delta.num_output_tokens for delta in stream]
        timer.join()
        return seen[-1] if seen else 0
    tokens = 0
    for delta in stream:
        tokens, deltas = delta.num_output_tokens, deltas - 1
        if not deltas:
            break
    return tokens


def memory(server: Server) -> float:
    """The proportional set size of all stubs in bytes."""
    return float(sum(psutil.Process(pid).memory_full_info().pss for pid in server.stubs()))


def test_waiting_requests_are_cancelled_where_they_wait(settled: Server) -> None:
    """Of 24 that wait every second leaves, at random moments, over gRPC and HTTP; all others get their answers."""
    draw, url = random.Random(12), settled.metrics_url
    with (
        Client(settled.grpc_url, model=MODEL, timeout=60) as over_grpc,
        Client(settled.http_url, model=MODEL, timeout=60) as over_http,
        ThreadPoolExecutor(SLOTS + 24) as pool,
    ):
        running = [pool.submit(over_grpc.generate, "Count:", max_tokens=150, min_tokens=150) for _ in range(SLOTS)]
        wait_until(lambda: value(url, "slots_used", **DECODER) == SLOTS)
        clients = [over_grpc, over_grpc, over_http, over_http] * 6
        streams = [each.generate(f"Wait {n}:", max_tokens=9, stream=True) for n, each in enumerate(clients)]
        waiting = [pool.submit(list, stream) for stream in streams]
        wait_until(lambda: value(url, "requests_waiting", **DECODER) == 24)
        done = counted(url)[0]
        for stream in streams[::2]:
            time.sleep(draw.random() / 10)
            stream.close()
        wait_until(lambda: counted(url)[0] == done + 12, timeout_s=3)
        assert value(url, "slots_used", **DECODER) == SLOTS
        assert [text_of(future.result(60)) != "" for future in waiting[1::2]] == [True] * 12
        assert all(future.result(60).num_output_tokens == 150 for future in running)
    wait_until(lambda: value(url, "detokenizer_streams") == 0)


def test_64_streams_to_16_slots_all_end_well_in_order_of_arrival(settled: Server) -> None:
    first: dict[int, float] = {}

    def ask(number: int) -> int:
        tokens = 0
        # Of more than half a step's 64 prompt tokens: no two of them start in the same step.
        text = f"{'one two three four five six ' * 6}and number {number} says:"
        for delta in client.generate(text, max_tokens=24, min_tokens=24, stream=True):
            first.setdefault(number, time.monotonic())
            tokens = delta.num_output_tokens
        return tokens

    with Client(settled.grpc_url, model=MODEL, timeout=120) as client, ThreadPoolExecutor(64) as pool:
        futures = []
        for number in range(64):
            futures.append(pool.submit(ask, number))
            time.sleep(0.01)
        assert [future.result(120) for future in futures] == [24] * 64
    order = sorted(first, key=first.__getitem__)
    # Two that start in neighbouring steps may be seen in either order.
    assert max(abs(place - number) for place, number in enumerate(order)) <= 4, order


@pytest.fixture(scope="module")
def small(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose decoder has 2 slots and a queue of 2."""
    with few_slots(repository, tmp_path_factory.mktemp("small"), slots=2, queue=2) as running:
        yield running


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_a_full_queue_answers_at_once_with_the_right_status(small: Server, scheme: str) -> None:
    url = small.grpc_url if scheme == "grpc" else small.http_url
    with Client(url, model=MODEL, timeout=60) as client, ThreadPoolExecutor(8) as pool:
        taken, lengths = [], (400, 400, 20, 20)
        for number, length in enumerate(lengths):
            taken.append(pool.submit(client.generate, "Go on:", max_tokens=length, min_tokens=length))
            wait_until(lambda number=number: in_engine(small) == number + 1)
        for stream in (False, True):
            with pytest.raises(ServerOverloaded, match="2 requests wait for 2 slots") as refused:
                list(client.generate("Me too:", max_tokens=3, stream=True)) if stream else client.generate("Me too:")
            # tritonserver 2.51 answers every error of `generate` with 400, and of a stream without a status.
            assert refused.value.status == (400 if scheme == "http" else None)
        assert in_engine(small) == 4, "it waited for a place"
        assert tuple(future.result(60).num_output_tokens for future in taken) == lengths
        assert client.generate("The sky is", max_tokens=3).num_output_tokens == 3


def in_engine(server: Server) -> float:
    url = server.metrics_url
    return value(url, "slots_used", **DECODER) + value(url, "requests_waiting", **DECODER)


MESSAGE = '[{"role": "user", "content": "Hi"}]'


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"text_input": "x " * 3000}, "the prompt has 3001 tokens, the longest this model takes is 1023 tokens"),
        ({"text_input": "x", "max_tokens": 0}, "max_tokens is 0; give 1 or more"),
        ({"text_input": "x", "max_tokens": -3}, "max_tokens is -3"),
        ({"text_input": "x", "max_tokens": 5000}, "leaves room for"),
        ({"text_input": "x", "temperature": -1.0}, "temperature is -1"),
        ({"text_input": "x", "top_p": 1.5}, "top_p is 1.5"),
        ({"text_input": "x", "top_k": -1}, "top_k is -1"),
        ({"messages": '[{"role": "usr", "content": "Hi"}]'}, "unknown role 'usr'; did you mean 'user'?"),
        ({"messages": "hello"}, "messages is not JSON"),
        ({"text_input": "x", "messages": MESSAGE}, "both text_input and messages"),
        ({"max_tokens": 4}, "neither text_input nor messages"),
        ({"prompt": "misspelt"}, "neither text_input nor messages"),
        ({"text_input": "x", "stop_words": ["y" * 1_000_000]}, "stop word 0 is 1000000 bytes long"),
    ],
)
def test_bad_requests_over_http_get_a_sentence_and_the_server_goes_on(
    settled: Server, inputs: dict[str, Any], words: str
) -> None:
    for endpoint in ("generate", "generate_stream"):
        status, body = post(settled, endpoint, json.dumps(inputs).encode())
        assert words in body, body
        assert status == 400
    with Client(settled.http_url, model=MODEL) as client:
        assert client.generate("The sky is", max_tokens=3).num_output_tokens == 3


def post(server: Server, endpoint: str, body: bytes) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.ports.http, timeout=20)
    connection.request("POST", f"/v2/models/{MODEL}/{endpoint}", body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    return response.status, text


def test_bad_numbers_and_bytes_over_grpc(settled: Server) -> None:
    """What JSON and the SDK cannot even say."""
    import numpy as np
    from tritonclient.grpc import InferenceServerClient, InferInput

    for name, datatype, array, words in (
        ("temperature", "FP32", np.array([[np.nan]], np.float32), "temperature is nan"),
        ("repetition_penalty", "FP32", np.array([[np.inf]], np.float32), "repetition_penalty is inf"),
        ("text_input", "BYTES", np.array([[b"caf\xe9"]], object), "text_input is not UTF-8: byte 0xe9 at position 3"),
    ):
        inputs = {"text_input": ("BYTES", np.array([[b"x"]], object)), name: (datatype, array)}
        answers: list[Any] = []
        arrived = threading.Event()
        with InferenceServerClient(settled.grpc_url.removeprefix("grpc://")) as client:

            def take(result: Any, error: Any, answers: list[Any] = answers, arrived: Any = arrived) -> None:
                answers.append(error)
                arrived.set()

            client.start_stream(take)
            tensors = [InferInput(key, [1, 1], kind).set_data_from_numpy(data) for key, (kind, data) in inputs.items()]
            client.async_stream_infer(MODEL, tensors)
            assert arrived.wait(10)
            client.stop_stream()
        assert words in str(answers[0])
    with Client(settled.grpc_url, model=MODEL) as sdk:
        with pytest.raises(InvalidRequest, match="longest this model takes is"):
            sdk.generate("x " * 3000)
        assert sdk.generate("The sky is", max_tokens=3).num_output_tokens == 3


def test_a_deadline_frees_the_slot(settled: Server) -> None:
    for url in (settled.grpc_url, settled.http_url):
        done = counted(settled.metrics_url)[0]
        with Client(url, model=MODEL) as client, pytest.raises(TritonyardError, match="no complete answer within"):
            list(client.generate("On and on:", max_tokens=900, min_tokens=900, stream=True, timeout=0.5))
        wait_until(lambda done=done: counted(settled.metrics_url)[0] == done + 1, timeout_s=2)


def test_sampling_reaches_the_engine(settled: Server) -> None:
    with Client(settled.grpc_url, model=MODEL) as client:
        drawn = {client.generate("A poem:", max_tokens=16, temperature=1.2, seed=seed).text for seed in range(6)}
        again = [client.generate("A poem:", max_tokens=16, temperature=1.2, top_p=0.9, seed=3).text for _ in range(2)]
        greedy = {client.generate("A poem:", max_tokens=16, temperature=1.2, top_k=1).text for _ in range(2)}
        assert client.generate("A poem:", max_tokens=16, temperature=0).text in greedy
    assert len(drawn) == 6
    assert again[0] == again[1]
    assert len(greedy) == 1


def test_the_metrics_count_what_was_done(settled: Server) -> None:
    url, done = settled.metrics_url, {**DECODER, "finish_reason": "length"}
    named = {
        "time_to_first_token_seconds_count": DECODER,
        "inter_token_seconds_count": DECODER,
        "input_tokens": DECODER,
        "output_tokens": done,
        "requests_finished": done,
    }
    before = {name: value(url, name, **labels) for name, labels in named.items()}
    with Client(settled.grpc_url, model=MODEL) as client:
        answer = client.generate(prompt(4), max_tokens=12, min_tokens=12)
    wait_until(lambda: value(url, "requests_finished", **done) == before["requests_finished"] + 1)
    grown = {name: value(url, name, **labels) - before[name] for name, labels in named.items()}
    assert list(grown.values()) == [1, 11, answer.num_input_tokens, 12, 1]


def test_no_stub_carries_torch(settled: Server) -> None:
    """None of these is pure Python: who has imported it has mapped it."""
    mapped = {pid: Path(f"/proc/{pid}/maps").read_text() for pid in settled.stubs()}
    assert [pid for pid, files in mapped.items() if "/torch/" in files] == []
    assert sum("/tokenizers/" in files for files in mapped.values()) >= 3
    assert sum("/onnxruntime/" in files for files in mapped.values()) >= 2


def test_a_killed_engine_is_an_error_within_2_seconds_and_comes_back(
    repository: Path, oracle: Oracle, tmp_path: Path
) -> None:
    server = Server(repository, BACKENDS, free_ports(), tmp_path / "log")
    supervisor.start(server, repository, lambda _: None)
    said: list[str] = []

    def say(words: str) -> None:
        said.append(words)
        if words == "ready again":
            raise StopIteration  # once is enough: what the test stops later shall stay so

    def supervise() -> None:
        with suppress(StopIteration):
            supervisor.supervise(server, repository, say)

    threading.Thread(target=supervise, daemon=True).start()
    ended: list[tuple[float, BaseException | None]] = []

    def ask(number: int) -> None:
        try:
            list(client.generate(prompt(number), max_tokens=300, min_tokens=300, stream=True))
        except Exception as error:
            ended.append((time.monotonic(), error))

    with Client(server.grpc_url, model=MODEL, timeout=60) as client, ThreadPoolExecutor(16) as pool:
        for number in range(16):
            pool.submit(ask, number)
        wait_until(lambda: value(server.metrics_url, "slots_used", **DECODER) == 16)
        victim = next(pid for pid, line in server.stubs().items() if "smollm2_decoder" in line)
        psutil.Process(victim).kill()
        killed = time.monotonic()
        wait_until(lambda: len(ended) == 16)
        assert max(when for when, _ in ended) - killed < 2.0
        assert [error for _, error in ended if not isinstance(error, TritonyardError)] == []
        assert not any(isinstance(error, ServerFailed) and "Traceback" in str(error) for _, error in ended)
        wait_until(lambda: "ready again" in said, timeout_s=30)
        assert client.generate(prompt(1), max_tokens=20).text == oracle.text(prompt(1), 20)
    server.stop(at_once=True)
