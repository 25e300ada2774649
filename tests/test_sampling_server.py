"""Sampling in full through the real tritonserver: what is asked for in texts comes back in texts, streamed or not."""

import json
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from served_metrics import value
from test_generate_server import DECODER, MODEL, counted, prompt, wait_until
from text_calls import TextCall, post
from tokenizers import Tokenizer

from pipeline.plan import Plan
from pipeline.store import Artefact
from serving.server import Server
from yard.checkout import BACKENDS

pytestmark = pytest.mark.server

CAPITAL = "The capital of France is"


def asked(server: Server, **request: Any) -> dict[str, Any]:
    """One answer over HTTP, or what it was refused with: {"error": ...}."""
    found: dict[str, Any] = json.loads(post(server, MODEL, "generate", {"max_tokens": 12, **request}).read())
    return found


def streamed(server: Server, **request: Any) -> list[dict[str, Any]]:
    """The responses of a streamed answer over HTTP."""
    body = post(server, MODEL, "generate_stream", {"max_tokens": 12, "stream": True, **request}).read().decode()
    return [json.loads(line.removeprefix("data: ")) for line in body.splitlines() if line]


def listed(found: Any) -> list[Any]:
    """The elements of an output, of which Triton's JSON writes a single one without its list."""
    return found if isinstance(found, list) else [found]


class TeacherForced:
    """The engine in this process: log probabilities of an answer that is given."""

    def __init__(self, folder: Any):
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(BACKENDS / "onnx_generate")
            sys.modules.pop("decoder", None)
            from decoder import Decoder
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._open = lambda: Decoder(folder, 1, 256)

    def log_probs(self, text: str, answer: list[int]) -> list[np.ndarray]:
        """FP64 [V] for each token of `answer` behind the prompt `text`."""
        decoder = self._open()
        rows = [decoder.prefill(0, np.array(self.tokenizer.encode(text).ids, np.int64)).copy()]
        rows += [decoder.decode(np.array([token], np.int64))[0].copy() for token in answer[:-1]]
        return [row - np.logaddexp.reduce(row.astype(np.float64)) for row in rows]


@pytest.fixture(scope="module")
def engine(smollm2: tuple[Plan, Artefact]) -> TeacherForced:
    return TeacherForced(smollm2[1].folder)


@pytest.fixture
def settled(server: Server) -> Iterator[Server]:
    yield server
    wait_until(lambda: value(server.metrics_url, "slots_used", **DECODER) == 0)
    wait_until(lambda: value(server.metrics_url, "detokenizer_streams") == 0)


def test_bad_words_and_biases_change_what_is_said(settled: Server) -> None:
    assert asked(settled, text_input=CAPITAL)["text_output"].startswith(" Paris")
    for words in (["Paris"], [" Paris"]):
        assert "Paris" not in asked(settled, text_input=CAPITAL, bad_words=words)["text_output"]
    biased = asked(settled, text_input=CAPITAL, embedding_bias_words=[" London"], embedding_bias_weights=[100.0])
    assert biased["text_output"] == " London" * 12
    # NVIDIA's clients send these along.
    assert asked(settled, text_input=CAPITAL, bad_words="", beam_width=1)["text_output"].startswith(" Paris")


@pytest.mark.parametrize(
    ("request_of", "words"),
    [
        ({"min_p": 1.5}, "min_p is 1.5; give a number between 0 and 1"),
        ({"top_logprobs": 21}, "top_logprobs is 21; give 0 to 20"),
        ({"bad_words": ["a"] * 65}, "65 bad words were sent, at most 64 are taken"),
        ({"logit_bias": '{"49152": 1}'}, "logit_bias names the token '49152'; the vocabulary has the ids 0 to 49151"),
        ({"num_return_sequences": 2}, "num_return_sequences is 2, but the greedy answers are all one"),
        ({"num_return_sequences": 17, "temperature": 1.0}, "num_return_sequences is 17; give 1 to 16"),
        ({"beam_width": 4}, "beam_width is 4, and beams are not searched; ask for num_return_sequences"),
    ],
)
def test_what_cannot_be_done_is_refused(settled: Server, request_of: dict[str, Any], words: str) -> None:
    assert words in asked(settled, text_input=CAPITAL, **request_of)["error"]


def test_log_probs_are_the_engines_own_streamed_or_not(settled: Server, engine: TeacherForced) -> None:
    request = {"text_input": prompt(3), "temperature": 1.3, "top_logprobs": 3, "max_tokens": 20}
    for seed in range(5, 25):
        request["seed"] = seed
        whole = asked(settled, **request)
        answer = engine.tokenizer.encode(whole["text_output"]).ids
        if len(answer) == whole["num_output_tokens"]:
            break  # of some texts other tokens spell the same
    deltas = streamed(settled, **request)
    content = json.loads(whole["logprobs"])
    said = b"".join(bytes(each["bytes"]) for each in content).decode()
    assert said == whole["text_output"] == "".join(delta["text_output"] for delta in deltas)
    assert len(answer) == len(content) == whole["num_output_tokens"]
    want = engine.log_probs(prompt(3), answer)
    exact = [row[token] for row, token in zip(want, answer, strict=True)]
    assert whole["output_log_probs"] == pytest.approx(exact, abs=2e-3)
    assert whole["cum_log_probs"] == pytest.approx(sum(exact), abs=2e-2)
    for row, each in zip(want, content, strict=True):
        tops = [top["logprob"] for top in each["top_logprobs"]]
        assert tops == pytest.approx(np.sort(row)[:-4:-1].tolist(), abs=2e-3)
    in_deltas = [number for delta in deltas for number in listed(delta.get("output_log_probs", []))]
    assert in_deltas == pytest.approx(whole["output_log_probs"], abs=2e-3)
    assert [each["token"] for delta in deltas for each in json.loads(delta.get("logprobs", "[]"))] == [
        each["token"] for each in content
    ]
    assert deltas[-1]["cum_log_probs"] == pytest.approx(whole["cum_log_probs"], abs=2e-2)


def test_who_does_not_ask_gets_no_log_probs(settled: Server) -> None:
    names = {"output_log_probs", "cum_log_probs", "logprobs", "sequence_index"}
    assert not names & asked(settled, text_input=CAPITAL).keys()
    assert not any(names & delta.keys() for delta in streamed(settled, text_input=CAPITAL))
    only = asked(settled, text_input=CAPITAL, return_log_probs=True)
    assert names & only.keys() == {"output_log_probs", "cum_log_probs"}


def test_several_answers_come_in_one_response_or_numbered(settled: Server) -> None:
    request = {"text_input": prompt(1), "temperature": 1.0, "seed": 11, "num_return_sequences": 3, "max_tokens": 16}
    whole = asked(settled, **request, return_log_probs=True)
    assert len(set(whole["text_output"])) == 3
    assert whole["finish_reason"] == ["length"] * 3
    assert (whole["num_output_tokens"], len(whole["cum_log_probs"]), len(whole["output_log_probs"])) == (48, 3, 48)
    alone = asked(settled, **{**request, "num_return_sequences": 1})
    assert alone["text_output"] == whole["text_output"][0]
    texts, reasons = ["", "", ""], ["", "", ""]
    for delta in streamed(settled, **request):
        place = delta["sequence_index"]
        assert not reasons[place], "nothing follows a reason"
        texts[place] += delta["text_output"]
        reasons[place] = delta["finish_reason"]
    assert (texts, reasons) == (whole["text_output"], whole["finish_reason"])


def test_a_stop_string_ends_one_of_several_answers_and_a_cancel_all(settled: Server) -> None:
    request = {"text_input": prompt(1), "temperature": 1.0, "seed": np.uint64(11), "num_return_sequences": 3}
    plain = {**request, "seed": 11, "max_tokens": 16}
    whole = asked(settled, **plain)["text_output"]
    stop = next(word for word in whole[1].split()[3:] if not any(word in each for each in (whole[0], whole[2])))
    stopped = asked(settled, **plain, stop_words=[stop])
    assert stopped["finish_reason"] == ["length", "stop", "length"]
    assert stopped["text_output"] == [whole[0], whole[1][: whole[1].index(stop)], whole[2]]
    done = counted(settled.metrics_url)[0]
    call = TextCall(settled, MODEL, {**request, "max_tokens": 700, "min_tokens": 700, "stream": True})
    next(iter(call))
    call.cancel()
    wait_until(lambda: counted(settled.metrics_url)[0] == done + 3, timeout_s=5)


def test_guided_answers_follow_their_guides(settled: Server) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer", "maximum": 99}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    guide = {"guided_decoding_guide_type": "json_schema", "guided_decoding_guide": json.dumps(schema)}
    request = {"text_input": "A person as JSON:", "max_tokens": 120, "temperature": 1.0, "top_p": 0.9, **guide}
    for seed in range(3):
        whole = asked(settled, **request, seed=seed)
        assert whole["finish_reason"] == "stop"
        found = json.loads(whole["text_output"])
        assert found.keys() == {"name", "age"}
        assert isinstance(found["age"], int)
    deltas = streamed(settled, **request, seed=2)
    assert "".join(delta["text_output"] for delta in deltas) == whole["text_output"]
    assert len(deltas) > 3
    refused = asked(settled, **{**request, "guided_decoding_guide": '{"type": "objekt"}'})
    assert "guided_decoding_guide is refused: Invalid type: objekt" in refused["error"]
