"""The contract of an embedding model, for who measures its callers: it computes nothing."""

import numpy as np
import triton_python_backend_utils as pb_utils

WIDTH = 384


class TritonPythonModel:
    """Answers every text with the same embedding."""

    def execute(self, requests):
        return [answer(len(pb_utils.get_input_tensor_by_name(each, "text").as_numpy())) for each in requests]


def answer(rows):
    return pb_utils.InferenceResponse([pb_utils.Tensor("embedding", np.full((rows, WIDTH), 0.5, np.float32))])
