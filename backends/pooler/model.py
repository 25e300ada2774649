"""Triton python-based backend `pooler`: the hidden states of an encoder in, one embedding a text out.

Runs inside Triton from its own folder and imports nothing of the project. Model parameters, as the checkpoint's
`1_Pooling/config.json` and `modules.json` (sentence-transformers) say:

    pooling     mean | cls | max | mean_sqrt_len
    normalize   true | false: scale each embedding to length 1
"""

import json

import numpy as np
import triton_python_backend_utils as pb_utils


def _mean(hidden, mask):
    return _sum(hidden, mask) / np.maximum(mask.sum(axis=1, keepdims=True), 1e-9)


def _mean_sqrt_len(hidden, mask):
    return _sum(hidden, mask) / np.sqrt(np.maximum(mask.sum(axis=1, keepdims=True), 1e-9))


def _max(hidden, mask):
    return np.where(mask[:, :, None] > 0, hidden, -np.inf).max(axis=1)


def _cls(hidden, _mask):
    return hidden[:, 0]


def _sum(hidden, mask):
    # One pass without BLAS, whose threads would take the encoder's cores.
    return np.einsum("bs,bsh->bh", mask, hidden)


POOLINGS = {"mean": _mean, "cls": _cls, "max": _max, "mean_sqrt_len": _mean_sqrt_len}


class TritonPythonModel:
    """The pooler step: FP32 [B, S, H] and `attention_mask` INT64 [B, S] -> `embedding` FP32 [B, H]."""

    def initialize(self, args):
        """Read the parameters; raise on one that is unknown, so that the model fails to load."""
        config = json.loads(args["model_config"])
        parameters = {key: entry["string_value"] for key, entry in config["parameters"].items()}
        self.hidden = next(entry["name"] for entry in config["input"] if entry["name"] != "attention_mask")
        self.embedding = config["output"][0]["name"]
        pooling, normalize = parameters["pooling"], parameters["normalize"]
        if pooling not in POOLINGS or normalize not in ("true", "false"):
            raise pb_utils.TritonModelException(
                f"{config['name']}: pooling '{pooling}', normalize '{normalize}'; known are "
                f"{', '.join(POOLINGS)} and true, false"
            )
        self.pool, self.normalize = POOLINGS[pooling], normalize == "true"

    def execute(self, requests):
        """Pool each request: views of its own tensors; joining a batch would copy more than it computes."""
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        hidden = pb_utils.get_input_tensor_by_name(request, self.hidden).as_numpy()
        mask = pb_utils.get_input_tensor_by_name(request, "attention_mask").as_numpy()
        pooled = self.pool(hidden, mask.astype(np.float32))
        if self.normalize:
            pooled = pooled / np.maximum(np.linalg.norm(pooled, axis=1, keepdims=True), 1e-12)
        return pb_utils.InferenceResponse([pb_utils.Tensor(self.embedding, pooled.astype(np.float32))])
