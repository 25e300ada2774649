import json

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Answers its own parameter `folder`, whatever it is asked."""

    def initialize(self, args):
        self.folder = json.loads(args["model_config"])["parameters"]["folder"]["string_value"]

    def execute(self, requests):
        value = np.array([self.folder], dtype=object)
        return [pb_utils.InferenceResponse([pb_utils.Tensor("y", value)]) for _ in requests]
