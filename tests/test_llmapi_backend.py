"""The backend over TensorRT-LLM's LLM API: what it asks, where answers end, and a real tritonserver."""

import json
import re
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from gpu_repository import TRITON, configs_of, launch, write_backends, write_models
from hypothesis import given
from hypothesis import strategies as st
from live_server import live_server
from text_calls import ANSWER_S, TextCall, post
from tritonclient.utils import InferenceServerException

from ensembles.generate import GenerateSpec
from ensembles.llmapi import llmapi_ensemble
from serving.server import Server
from tritonyard import Client, Generation
from yard.checkout import BACKENDS

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(BACKENDS / "llmapi")
    from answer import Answer
    from model_yaml import read_model_yaml
    from sampling import NAMES, BadRequest, prompt_of, sampling_params, stop_strings

CONTRACT = Path(__file__).parent / "contracts" / "tensorrtllm-1.2-triton-models.json"
MODEL = "api"
# A stream of this many letters, a pause after each, that nobody reads to its end.
LONG, PAUSE_MS = "word " * 80, np.uint64(20)


def answers(streaming: bool, stops: list[str], pieces: list[str], reason: str) -> list[tuple[str, str]]:
    answer = Answer(streaming, stops)
    given = [answer.push(piece, "") for piece in pieces] + [answer.push("", reason)]
    return [each for each in given if each]


@given(text=st.text("ab\né"), cuts=st.lists(st.integers(0, 40)), stop=st.text("ab\né", min_size=1, max_size=3))
def test_however_the_text_is_cut_the_answer_is_what_stands_before_the_stop_string(
    text: str, cuts: list[int], stop: str
) -> None:
    pieces = [text[start:end] for start, end in pairwise([0, *sorted(cuts), max(40, len(text))])]
    before, found, _ = text.partition(stop)
    for streaming in (True, False):
        said = answers(streaming, [stop], pieces, "length")
        assert "".join(piece for piece, _ in said) == before
        assert [reason for _, reason in said if reason] == ["stop" if found else "length"]
        assert streaming or len(said) == 1


def test_after_its_end_an_answer_says_nothing() -> None:
    answer = Answer(True, ["x"])
    assert answer.push("axb", "") == ("a", "stop")
    assert answer.done
    assert answer.push("more", "length") is None


def test_settings_have_the_names_of_both_sides() -> None:
    inputs = json.loads(CONTRACT.read_text())["all_models/llmapi/tensorrt_llm"]["inputs"]
    assert NAMES.keys() <= inputs.keys()
    sent = {"sampling_param_temperature": [0.5], "sampling_param_max_tokens": [7], "sampling_param_seed": [3]}
    assert sampling_params(sent) == {"temperature": 0.5, "max_tokens": 7, "seed": 3}
    assert sampling_params({}) == {"max_tokens": None}, "SamplingParams' own 32 would cut answers short"
    assert sampling_params({"sampling_param_temperature": [0.0]}) == {"max_tokens": None, "top_k": 1}


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        ({"sampling_param_max_tokens": [0]}, "max_tokens is 0; give 1 or more"),
        ({"return_stop_reason": [True]}, "return_stop_reason is true, which this model does not carry"),
        ({"sampling_param_exclude_input_from_output": [False]}, "the answer never repeats the prompt"),
        ({"text_input": [b"a", b"b"]}, "text_input holds 2 texts; send one a request"),
        ({"text_input": [b"\xff"]}, "text_input is not UTF-8: invalid start byte at position 0"),
        ({"sampling_param_stop": [b"a", b""]}, "sampling_param_stop 1 is empty"),
    ],
)
def test_a_bad_request_is_refused_in_words(sent: dict[str, Any], words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        (sampling_params(sent), stop_strings(sent), prompt_of(sent))


def test_model_yaml_names_the_checkpoint_beside_it_or_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").mkdir()
    for model, found in (("checkpoint", str(tmp_path / "checkpoint")), ("org/name", "org/name")):
        document = {"model": model, "max_seq_len": 9, "triton_config": TRITON}
        (tmp_path / "model.yaml").write_text(yaml.safe_dump(document))
        assert read_model_yaml(tmp_path) == (TRITON, {"model": found, "max_seq_len": 9})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "model.yaml is missing; run `yard repository`"),
        ("a: [", "model.yaml is not YAML"),
        ("- a", "model.yaml holds list"),
        ("model: a", "model.yaml has no key triton_config"),
        ("model: a\ntriton_config: {decoupled: true}", "triton_config is {'decoupled': True}"),
        ("model: a\ntriton_config: {decoupled: false, max_batch_size: 0}", "decoupled is false"),
    ],
)
def test_a_wrong_model_yaml_is_explained(tmp_path: Path, text: str | None, words: str) -> None:
    if text is not None:
        (tmp_path / "model.yaml").write_text(text)
    with pytest.raises(ValueError, match=words):
        read_model_yaml(tmp_path)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("api")
    ensemble = llmapi_ensemble(GenerateSpec(MODEL, 512, max_text_bytes=2048, slots=4, max_queue_size=8))
    write_models(folder / "gpu", configs_of(ensemble))
    backends = write_backends(folder / "backends")
    with live_server(folder / "gpu", folder / "log", backends, launch) as running:
        yield running


def ask(server: Server, model: str = MODEL, id: str = "", **request: Any) -> list[tuple[str, str]]:
    return list(TextCall(server, model, request, id))


@pytest.mark.server
def test_the_answer_comes_in_deltas_or_at_once(served: Server) -> None:
    assert ask(served, text_input="Héy", stream=True) == [("H", ""), ("é", ""), ("y", ""), ("", "stop")]
    assert ask(served, text_input="Héy") == [("Héy", "stop")]
    assert ask(served, text_input="Héy", max_tokens=2, stream=True) == [("H", ""), ("é", "length")]


@pytest.mark.server
@pytest.mark.parametrize("stream", [True, False])
def test_a_stop_string_ends_the_answer(served: Server, stream: bool) -> None:
    said = ask(served, text_input=f"so it\n\nends {LONG}", stop_words=["x", "\n\n"], stream=stream, seed=PAUSE_MS)
    assert "".join(text for text, _ in said) == "so it"
    assert said[-1][1] == "stop"
    assert len(said) == 1 or stream


@pytest.mark.server
def test_the_client_reads_it(served: Server) -> None:
    for url in (served.grpc_url, served.http_url):
        with Client(url, model=MODEL) as client:
            assert client.generate("Héy") == Generation("Héy", "stop", None, None)
            assert "".join(delta.text for delta in client.generate("Héy\n\nyou", stream=True, stop="\n\n")) == "Héy"


@pytest.mark.server
def test_messages_go_through_the_template(served: Server) -> None:
    talk = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "é?"}]
    assert ask(served, messages=json.dumps(talk)) == [("<system>Be brief.<user>é?<assistant>", "stop")]


@pytest.mark.server
def test_plain_http_generates_and_streams(served: Server) -> None:
    body = json.load(post(served, MODEL, "generate", {"text_input": "é is", "temperature": 0.5}))
    assert (body["text_output"], body["finish_reason"]) == ("é is", "stop")
    response = post(served, MODEL, "generate_stream", {"text_input": "é is", "stream": True})
    events = [json.loads(line.removeprefix(b"data: ")) for line in response if line.startswith(b"data: ")]
    assert [event["text_output"] for event in events] == ["é", " ", "i", "s", ""]


@pytest.mark.server
def test_many_answers_at_once_keep_apart(served: Server) -> None:
    prompts = [f"{number} é🙂" * 5 for number in range(8)]
    requests = [{"text_input": prompt, "stream": True, "seed": np.uint64(1)} for prompt in prompts]
    calls = [TextCall(served, MODEL, request) for request in requests]
    assert ["".join(text for text, _ in call) for call in calls] == prompts


@pytest.mark.server
def test_stop_with_the_same_id_ends_an_answer(served: Server) -> None:
    call = TextCall(served, MODEL, {"text_input": LONG, "stream": True, "seed": PAUSE_MS}, "mine")
    said = iter(call)
    assert next(said) == ("w", "")
    assert ask(served, f"{MODEL}_decoder", "mine", text_input="", stop=True) == []
    *_, (_, reason) = said
    assert reason == "cancelled"
    assert ask(served, f"{MODEL}_decoder", "nobody's", text_input="", stop=True) == []


def aborts(server: Server) -> list[int]:
    """After how many tokens each of the aborted answers was."""
    return [int(count) for count in re.findall(r"aborted after (\d+) tokens", server.log.read_text())]


@pytest.mark.server
def test_a_cancelled_call_of_the_decoder_itself_is_aborted(served: Server) -> None:
    before = aborts(served)
    call = TextCall(
        served, f"{MODEL}_decoder", {"text_input": LONG, "streaming": True, "sampling_param_seed": PAUSE_MS}
    )
    assert next(iter(call)) == ("w", "")
    call.cancel()
    until = time.monotonic() + ANSWER_S
    while aborts(served) == before and time.monotonic() < until:
        time.sleep(0.02)
    (count,) = aborts(served)[len(before) :]
    assert count < len(LONG) / 4


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({"stream": True}, "neither text_input nor messages was sent"),
    "long": ({"text_input": "a" * 512}, "the prompt has 512 tokens, the longest this model takes is 511 tokens"),
    "no answer": ({"text_input": "a", "max_tokens": 0}, "max_tokens is 0; give 1 or more"),
    "out of range": ({"text_input": "a", "top_p": 2.0}, "require 0 <= top_p <= 1, got top_p=2.0"),
    "an empty stop word": ({"text_input": "a", "stop_words": ["a", ""]}, "sampling_param_stop 1 is empty"),
    "a broken executor": ({"text_input": "break"}, "RuntimeError: the executor broke"),
}


@pytest.mark.server
@pytest.mark.parametrize("name", BAD)
def test_a_bad_request_is_refused_alone(served: Server, name: str) -> None:
    request, words = BAD[name]
    with pytest.raises(InferenceServerException) as caught:
        ask(served, **request)
    assert words in caught.value.message()
    assert ask(served, text_input="still here") == [("still here", "stop")]


@pytest.mark.server
def test_stop_without_id_is_refused(served: Server) -> None:
    with pytest.raises(InferenceServerException, match="stop ends the requests of its own id"):
        ask(served, f"{MODEL}_decoder", text_input="", stop=True)
