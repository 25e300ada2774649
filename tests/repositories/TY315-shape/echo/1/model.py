import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Answers y = x."""

    def execute(self, requests):
        values = [pb_utils.get_input_tensor_by_name(request, "x").as_numpy() for request in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("y", value)]) for value in values]
