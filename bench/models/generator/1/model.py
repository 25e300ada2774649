"""The contract of a text generator, for who measures its callers: it computes nothing.

Streams that are open at once get their answers in turns, as continuous batching gives them.
"""

import queue
import threading

import numpy as np
import triton_python_backend_utils as pb_utils

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class TritonPythonModel:
    """Answers `max_tokens` times as fast as it can, a token an answer."""

    def initialize(self, args):
        self._arrived = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write)
        self._thread.start()

    def execute(self, requests):
        for request in requests:
            tokens = int(pb_utils.get_input_tensor_by_name(request, "max_tokens").as_numpy().item())
            self._arrived.put((request.get_response_sender(), tokens))

    def finalize(self):
        self._arrived.put(None)
        self._thread.join()

    def _write(self):
        streams = []
        while True:
            while not streams or not self._arrived.empty():
                arrived = self._arrived.get()
                if arrived is None:
                    return
                streams.append([*arrived, 0])
            for stream in streams:
                sender, tokens, written = stream
                stream[2] = written + 1
                sender.send(answer(written + 1, tokens), flags=FINAL if written + 1 == tokens else 0)
            streams = [stream for stream in streams if stream[2] < stream[1]]


def answer(written, tokens):
    return pb_utils.InferenceResponse(
        [
            pb_utils.Tensor("text_output", np.array([[b" word"]], np.object_)),
            pb_utils.Tensor("finish_reason", np.array([[b"length" if written == tokens else b""]], np.object_)),
            pb_utils.Tensor("num_input_tokens", np.array([[3]], np.int32)),
            pb_utils.Tensor("num_output_tokens", np.array([[written]], np.int32)),
        ]
    )
