"""Stands in for NVIDIA's C++ backend `tensorrtllm`, which needs a GPU: it holds every request to the contract.

The contract is tests/contracts/tensorrtllm-1.2-triton-models.json, the facts of NVIDIA's own model. What of it a
request breaks is the answer, an error; so are the mistakes that the real backend refuses (`triton_backend/
inflight_batcher_llm/src/model_instance_state.cc`, TensorRT-LLM 1.2.1). The rest is as there, too: new tokens alone in
a streamed response, its `end_id` not among them, an empty last response where that or `stop` ended it, the prompt
repeated in one that is not streamed unless the parameter `exclude_input_in_output` says otherwise.

Its "model" says the tokens of the prompt and then `end_id`, or says them again and again where there is none. Two
settings mean something else here, because tests need it: `seed` is the pause in milliseconds before each response,
`runtime_top_k` the number of tokens in one; where it is more than one, `end_id` may be found in the step of the last
tokens, as by an engine that drafts.
"""

import itertools
import json
import threading
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

CONTRACT = Path(__file__).resolve().parents[2] / "contracts" / "tensorrtllm-1.2-triton-models.json"
MODEL = "all_models/inflight_batcher_llm/tensorrt_llm"
FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
TYPES = {"TYPE_INT32": np.int32, "TYPE_INT64": np.int64, "TYPE_UINT64": np.uint64, "TYPE_UINT8": np.uint8}
TYPES |= {"TYPE_FP32": np.float32, "TYPE_FP16": np.float16, "TYPE_BOOL": np.bool_, "TYPE_STRING": np.object_}
REQUIRED_OUTPUTS = {"output_ids", "sequence_length"}


class Broken(Exception):
    """A request that the real backend would refuse, or would not be sent by its own client."""


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        self.contract = json.loads(CONTRACT.read_text())[MODEL]
        self.repeats_prompt = config["parameters"]["exclude_input_in_output"]["string_value"] != "true"
        self.running, self.lock = {}, threading.Lock()
        self.family = pb_utils.MetricFamily(
            name="engine", description="what it saw", kind=pb_utils.MetricFamily.COUNTER
        )
        self.seen = {
            what: self.family.Metric(labels={"of": what, "model": config["name"]})
            for what in ("requests", "tokens", "stops", "broken")
        }

    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            try:
                self.take(request, sender)
            except Broken as error:
                self.count("broken")
                sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error))), FINAL)

    def finalize(self):
        self.seen.clear()
        del self.family

    def count(self, what, number=1):
        # Without the lock, threads that count at once crashed the server.
        with self.lock:
            self.seen[what].increment(number)

    def take(self, request, sender):
        sent = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        self.require_contract(sent)
        if value(sent, "stop", False):
            self.stop(request.request_id(), sender)
            return
        if missing := REQUIRED_OUTPUTS - set(request.requested_output_names()):
            raise Broken(f"{min(missing)} tensor must be present in list of output tensors")
        if not ("input_ids" in sent and sent["input_ids"].size):
            raise Broken("input_ids is not present in the request.")
        self.count("requests")
        self.require_words(sent.get("stop_words_list"))
        # As there: a second request of an id takes the place of the first.
        stopped = self.running[request.request_id()] = threading.Event()
        wanted = set(request.requested_output_names())
        threading.Thread(target=self.say, args=(sender, wanted, sent, stopped)).start()

    def require_contract(self, sent):
        for name, value in sent.items():
            known = self.contract["inputs"].get(name)
            if known is None:
                raise Broken(f"NVIDIA's model has no input {name}")
            if value.dtype != TYPES[known["dtype"]]:
                raise Broken(f"{name} is {value.dtype}, NVIDIA's model takes {known['dtype']}")
            shape = [1, *known.get("reshape", known["dims"])]
            if len(shape) != value.ndim or any(
                want not in (-1, found) for want, found in zip(shape, value.shape, strict=True)
            ):
                raise Broken(f"{name} has the shape {list(value.shape)}, NVIDIA's model takes {shape}")
        for name, known in self.contract["inputs"].items():
            if not known.get("optional") and name not in sent:
                raise Broken(f"{name} is not present in the request")

    def require_words(self, words):
        if words is None:
            return
        _, ends = words[0].tolist()
        real = [end for end in ends if end != -1]
        if real != ends[: len(real)] or real != sorted(set(real)) or (real and not 0 < real[-1] <= len(ends)):
            raise Broken(f"stop_words_list ends its words at {ends}")

    def stop(self, key, sender):
        if not key:
            raise Broken("Trying to stop a request but request ID is not provided")
        self.count("stops")
        if stopped := self.running.get(key):
            stopped.set()
        sender.send(flags=FINAL)

    def say(self, sender, wanted, sent, stopped):
        prompt, size = sent["input_ids"][0].tolist(), value(sent, "runtime_top_k", 1)
        said, ends_empty = answer(prompt, sent["request_output_len"].item(), value(sent, "end_id", -1), words_of(sent))
        groups = [said[start : start + size] for start in range(0, len(said), size)]
        if ends_empty and (size == 1 or len(said) % size == 0):
            groups.append([])
        pause_s, streaming = value(sent, "seed", 0) / 1000, value(sent, "streaming", False)
        if not streaming:
            groups, pause_s = [said], pause_s * len(groups)
        for group in groups:
            is_stopped = stopped.wait(pause_s)
            ids = [] if is_stopped else group
            is_last = is_stopped or group is groups[-1]
            self.count("tokens", len(ids))
            repeated = prompt if self.repeats_prompt and not streaming else []
            tensors = {
                "output_ids": np.array(repeated + ids, np.int32).reshape(1, 1, -1),
                "sequence_length": np.array([[len(repeated + ids)]], np.int32),
                "num_input_tokens": np.array([[len(prompt)]], np.int32)
                if value(sent, "return_num_input_tokens", 0)
                else None,
                "last_token_time_ns": np.array([[int(is_last)]], np.int64)
                if value(sent, "return_perf_metrics", 0)
                else None,
            }
            # One tensor more than was asked for, and the stub crashes now and then: see `onnx_generate`.
            asked = [
                pb_utils.Tensor(name, each) for name, each in tensors.items() if each is not None and name in wanted
            ]
            sender.send(pb_utils.InferenceResponse(asked), FINAL if is_last else 0)
            if is_last:
                return


def value(sent, name, default):
    return sent[name].item() if name in sent else default


def words_of(sent):
    """The words of `stop_words_list` [1, 2, n]: the tokens of all, and where each ends."""
    if "stop_words_list" not in sent:
        return []
    ids, ends = sent["stop_words_list"][0].tolist()
    ends = [end for end in ends if end != -1]
    return [ids[start:end] for start, end in itertools.pairwise([0, *ends])]


def answer(prompt, limit, end, words):
    """What the "model" says, and whether `end` ended it, which is not said."""
    said = []
    for token in itertools.cycle([*prompt, end] if end >= 0 else prompt):
        if token == end:
            break
        said.append(token)
        if len(said) == limit or any(said[-len(word) :] == word for word in words):
            return said, False
    return said, True
