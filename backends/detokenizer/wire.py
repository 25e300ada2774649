"""What both kinds of streams say to Triton: their tensors in and out, refusals, and the call that stops a decoder."""

import numpy as np
import triton_python_backend_utils as pb_utils

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


def read(request, name):
    """Return the array of an input, None where it was not written."""
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return None if tensor is None else tensor.as_numpy()


def send(sender, answers, input_tokens, output_tokens, more=None):
    """Answer with a list of (text, finish reason) and the tensors `more`, or with no data where the list is empty.

    Nothing may follow.
    """
    if not answers:
        sender.send(flags=FINAL)
        return
    outputs = {
        "text_output": np.array([[text.encode() for text, _ in answers]], object),
        "num_input_tokens": np.array([[input_tokens]], np.int32),
        "num_output_tokens": np.array([[output_tokens]], np.int32),
        "finish_reason": np.array([[reason.encode() for _, reason in answers]], object),
        **(more or {}),
    }
    sender.send(pb_utils.InferenceResponse([pb_utils.Tensor(name, value) for name, value in outputs.items()]), FINAL)


def refuse(sender, fault, code):
    """Answer with an error; `code` is one of pb_utils.TritonError's."""
    sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError(fault, code)), FINAL)


def stop(name, decoder, **call):
    """Tell the model `decoder` that a stream needs no more tokens; it answers with its last response.

    `name` is the calling model's, `call` what an InferenceRequest takes beyond the decoder's name.
    """
    request = pb_utils.InferenceRequest(model_name=decoder, **call)
    for response in request.exec(decoupled=True):
        if response.has_error():
            pb_utils.Logger.log_warn(f"{name}: {decoder} was not stopped: {response.error().message()}")
