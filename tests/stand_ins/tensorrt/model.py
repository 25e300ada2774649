"""Stands in for NVIDIA's backend `tensorrt`, which needs a GPU and a plan: it holds every request to its config.pbtxt.

Its answers are hidden states of the right shape, FP32 [texts, tokens, hidden size], made of the ids of the tokens:
no meaning, but texts that differ give embeddings that do.
"""

import json

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.config = json.loads(args["model_config"])
        if not self.config["cc_model_filenames"] and self.config["backend"] == "tensorrt":
            raise pb_utils.TritonModelException(f"{self.config['name']} names no plan for any compute capability")
        (self.output,) = self.config["output"]

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        sent = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        if fault := self.fault(sent):
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(fault))
        ids = sent["input_ids"].astype(np.float32)
        lengths = np.arange(1, self.output["dims"][-1] + 1, dtype=np.float32)
        hidden = np.sin(ids[:, :, None] / lengths)
        return pb_utils.InferenceResponse([pb_utils.Tensor(self.output["name"], hidden)])

    def fault(self, sent):
        for known in self.config["input"]:
            value = sent.get(known["name"])
            if value is None:
                return f"{known['name']} is missing"
            if value.dtype != pb_utils.triton_string_to_numpy(known["data_type"]):
                return f"{known['name']} is {value.dtype}, config.pbtxt says {known['data_type']}"
            if value.ndim != 1 + len(known["dims"]) or not 1 <= len(value) <= self.config["max_batch_size"]:
                return f"{known['name']} has the shape {value.shape}"
        if len({value.shape for value in sent.values()}) != 1:
            return f"inputs differ in their shapes: { ({name: value.shape for name, value in sent.items()}) }"
        return None
