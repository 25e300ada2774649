import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Answers y = x twice."""

    def execute(self, requests):
        for request in requests:
            value = pb_utils.get_input_tensor_by_name(request, "x").as_numpy()
            sender = request.get_response_sender()
            sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("y", value)]))
            sender.send(
                pb_utils.InferenceResponse([pb_utils.Tensor("y", value)]),
                flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL,
            )
