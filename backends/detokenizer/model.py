"""Triton python-based backend `detokenizer`: a decoder's token ids in, text in deltas out.

Runs inside Triton from its own folder and imports nothing of the project. The version folder holds the checkpoint's
`tokenizer.json` (Hugging Face tokenizers). Model parameters:

    decoder   name of the model that sends the tokens; it is told to stop when nobody needs more of them

Whose tokens they are says the context that a decoder echoes (`echoed`), or, for a model with the input
`sequence_length`, the request's id (`keyed`; `decoder.json` in the version folder).

The model is decoupled, has one instance and no batching: it alone sees every delta of a stream, in order, and whether
the caller has gone. What is held back costs no response.
"""

import json
from pathlib import Path

import triton_python_backend_utils as pb_utils
from echoed import EchoedStreams
from incremental import Vocabulary
from keyed import KeyedStreams
from keyed_step import KeyedStep
from tokenizers import Tokenizer


class TritonPythonModel:
    """The detokenizer step: `output_ids` INT32 [1, 1, n] and what says whose they are -> `text_output` BYTES [1, 1].

    `finish_reason` BYTES [1, 1] goes out empty until the last response of a stream. `num_input_tokens` and
    `num_output_tokens` INT32 [1, 1] are counted here: a tensor less is a tenth of a millisecond less a token.

    Of several answers to one request (`answers`) each streamed response has its `sequence_index` INT32 [1, 1]; not
    streamed, they come in one response, texts and reasons [1, m], and `num_output_tokens` of all. Log probabilities
    (`pending_log_probs`) come with the text of their tokens.
    """

    def initialize(self, args):
        """Load `tokenizer.json`; raise when it or a parameter is missing, so that the model fails to load."""
        config = json.loads(args["model_config"])
        self.name, self.folder = config["name"], Path(args["model_repository"]) / args["model_version"]
        decoder = config["parameters"]["decoder"]["string_value"]
        vocabulary = Vocabulary(Tokenizer.from_file(str(self._file("tokenizer.json"))))
        # Kept: a metric whose family is gone cannot be set.
        self.family = pb_utils.MetricFamily(
            name="tritonyard_detokenizer_streams",
            description="Streams whose finish reason has not come yet",
            kind=pb_utils.MetricFamily.GAUGE,
        )
        self.gauge = self.family.Metric(labels={"model": self.name})
        if any(entry["name"] == "sequence_length" for entry in config["input"]):
            facts = json.loads(self._file("decoder.json").read_text())
            streams = KeyedStreams(vocabulary, facts["end_ids"])
            self.step = KeyedStep(self.name, decoder, streams, self.gauge.set)
        else:
            self.step = EchoedStreams(self.name, decoder, vocabulary, self.gauge.set)

    def execute(self, requests):
        """Answer each response of the decoder with at most one of its own."""
        for request in requests:
            self.step.advance(request, request.get_response_sender())

    def finalize(self):
        """Let go of the metric while the stub still lives: later it crashes it."""
        del self.step
        del self.gauge
        del self.family

    def _file(self, name):
        file = self.folder / name
        if not file.exists():
            raise pb_utils.TritonModelException(f"{self.name}: {file} is missing; run `yard repository`")
        return file
