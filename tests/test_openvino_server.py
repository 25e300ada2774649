"""The generation server's own tests over its other engine: the same contract, held by `openvino_generate`."""

import json
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import test_generate_server as generate
import test_sampling_server as sampling
from golden_server import golden_server
from served_metrics import value

from pipeline.assemble import assemble
from pipeline.openvino_decoder import RUNTIME, OpenVinoDecoder
from pipeline.plan import Plan
from pipeline.store import Artefact
from serving.server import Server
from tritonyard import Client

pytestmark = [
    pytest.mark.server,
    pytest.mark.alone,
    pytest.mark.skipif(not find_spec("openvino_genai"), reason="openvino-genai is not installed; run `make setup`"),
]

# Arithmetic that does not depend on who else is in a step; the default's activations in int8 do, by near-ties.
EXACT = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}


@pytest.fixture(scope="module")
def repository(openvino: tuple[Plan, Artefact], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository that serves it, with arithmetic that can be compared token for token."""
    target = tmp_path_factory.mktemp("openvino") / "cpu"
    assemble(target, [openvino], keep_others=False)
    runtime = target / "smollm2_decoder" / "1" / RUNTIME
    runtime.unlink()  # a link into the store
    runtime.write_text(json.dumps(EXACT))
    return target


@pytest.fixture(scope="module")
def server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("logs") / "tritonserver.log"
    with golden_server(repository, log) as running:
        yield running


@pytest.fixture(scope="module")
def oracle(openvino: tuple[Plan, Artefact], repository: Path) -> generate.Oracle:
    """What the engine says alone, by the plain loop over the graph."""
    return generate.Oracle(openvino[1].folder, OpenVinoDecoder(repository / "smollm2_decoder" / "1", 1, 1024))


settled = generate.settled


def test_prompts_that_join_and_leave_at_random_get_the_reference_token_for_token(
    settled: Server, oracle: generate.Oracle
) -> None:
    draw = random.Random(7)
    # Of 25 and 90 tokens: this arithmetic is slow.
    numbers = [number for number in range(20) if number % 5 < 2]
    asked = [(generate.prompt(number), draw.randint(1, 16), draw.random()) for number in numbers]

    def ask(case: tuple[str, int, float]) -> str:
        text, limit, delay_s = case
        time.sleep(delay_s)
        return generate.text_of(list(client.generate(text, max_tokens=limit, stream=True)))

    with Client(settled.grpc_url, model=generate.MODEL, timeout=120) as client, ThreadPoolExecutor(len(asked)) as pool:
        answers = list(pool.map(ask, asked))
    assert answers == [oracle.text(text, limit) for text, limit, _ in asked]


def test_running_and_waiting_requests_are_cancelled_where_they_are(settled: Server) -> None:
    url, done = settled.metrics_url, generate.counted(settled.metrics_url)[0]
    with Client(settled.grpc_url, model=generate.MODEL, timeout=60) as client, ThreadPoolExecutor(20) as pool:
        options = {"max_tokens": 700, "min_tokens": 700, "stream": True}
        streams = [client.generate("Count:", **options) for _ in range(20)]
        for stream in streams:
            pool.submit(list, stream)
        generate.wait_until(lambda: value(url, "requests_waiting", **generate.DECODER) == 4)
        for stream in streams:
            stream.close()
        generate.wait_until(lambda: generate.counted(url)[0] == done + 20)


test_a_stop_string_ends_the_work_too = generate.test_a_stop_string_ends_the_work_too
test_a_cancel_in_mid_prefill = generate.test_a_cancel_in_mid_prefill_is_seen_within_6_steps
test_bad_requests_over_http = generate.test_bad_requests_over_http_get_a_sentence_and_the_server_goes_on
test_bad_numbers_and_bytes_over_grpc = generate.test_bad_numbers_and_bytes_over_grpc
test_a_deadline_frees_the_slot = generate.test_a_deadline_frees_the_slot
test_the_metrics_count_what_was_done = generate.test_the_metrics_count_what_was_done
test_what_no_engine_can_do_is_refused = sampling.test_what_cannot_be_done_is_refused
test_who_does_not_ask_gets_no_log_probs = sampling.test_who_does_not_ask_gets_no_log_probs


@pytest.mark.parametrize(
    ("request_of", "words"),
    [
        ({"min_p": 0.1}, "min_p is not carried by the engine of this model"),
        ({"logit_bias": '{"5": 1}'}, "embedding_bias is not carried"),
        ({"bad_words": ["Paris"]}, "bad_words_list is not carried"),
        ({"top_logprobs": 3}, "top_logprobs is not carried"),
        ({"presence_penalty": 9.0}, "OpenVINO GenAI does not take it: 'presence_penalty' penalty must be within"),
        ({"guided_decoding_guide_type": "json"}, "guided decoding is not carried by openvino_generate"),
    ],
)
def test_what_this_engine_cannot_do_is_refused(settled: Server, request_of: dict[str, Any], words: str) -> None:
    assert words in sampling.asked(settled, text_input=sampling.CAPITAL, **request_of)["error"]


def test_several_answers_come_in_one_response_or_numbered(settled: Server) -> None:
    request = {"text_input": generate.prompt(1), "temperature": 1.2, "num_return_sequences": 3, "max_tokens": 8}
    whole = sampling.asked(settled, **request, return_log_probs=True)
    assert len(set(whole["text_output"])) == 3
    assert whole["finish_reason"] == ["length"] * 3
    assert len(whole["output_log_probs"]) == 24
    reasons = [delta.get("finish_reason") for delta in sampling.streamed(settled, **request)]
    assert [reason for reason in reasons if reason] == ["length"] * 3


def test_the_stub_carries_neither_torch_nor_onnxruntime(settled: Server) -> None:
    mapped = {line: Path(f"/proc/{pid}/maps").read_text() for pid, line in settled.stubs().items()}
    decoder = next(files for line, files in mapped.items() if "smollm2_decoder" in line)
    assert "/openvino/" in decoder
    assert not any("/torch/" in files or "/onnxruntime/" in files for files in mapped.values())
