"""Triton python-based backend `tokenizer`: what a caller sends in, token ids out.

Runs inside Triton from its own folder and imports nothing of the project. The version folder holds the checkpoint's
`tokenizer.json` (Hugging Face tokenizers). A model whose config has the output `stream_context` makes prompts for a
decoder (`prompt`, with `chat.json` beside the tokenizer), any other tokenises texts for an encoder (`texts`).
"""

import json
import os
from pathlib import Path

# The engine owns the cores; a batch of texts tokenises in a fraction of its time on one.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import triton_python_backend_utils as pb_utils
from prompt import Prompts
from refusal import Refusal
from texts import Texts
from tokenizers import Tokenizer


class TritonPythonModel:
    """The tokenizer step of the tasks embed (`texts.Texts`) and generate (`PromptStep`)."""

    def initialize(self, args):
        """Load the version folder; raise when a file or a parameter is missing, so that the model fails to load."""
        config = json.loads(args["model_config"])
        parameters = {key: entry["string_value"] for key, entry in config["parameters"].items()}
        self.name, self.folder = config["name"], Path(args["model_repository"]) / args["model_version"]
        tokenizer = Tokenizer.from_file(str(self._file("tokenizer.json")))
        tokenizer.no_padding()
        tokenizer.no_truncation()
        if any(entry["name"] == "stream_context" for entry in config["output"]):
            from chat import Chat  # encoders do without Jinja

            chat = Chat(json.loads(self._file("chat.json").read_text()))
            limits = int(parameters["max_tokens"]), int(parameters["max_text_bytes"])
            self.step = PromptStep(config, Prompts(tokenizer, chat, *limits))
        else:
            truncating = Tokenizer.from_file(str(self._file("tokenizer.json")))
            self.step = Texts(config, parameters, tokenizer, truncating)

    def execute(self, requests):
        """Answer each request; a bad one is refused alone."""
        return self.step.execute(requests)

    def _file(self, name):
        file = self.folder / name
        if not file.exists():
            raise pb_utils.TritonModelException(f"{self.name}: {file} is missing; run `yard repository`")
        return file


class PromptStep:
    """The inputs of `prompt.Prompts` -> `input_ids` INT32 [1, n], `input_lengths` INT32, `streaming` BOOL and
    `stream_context` BYTES, the last three [1, 1].
    """

    def __init__(self, config, prompts):
        self.name, self.prompts = config["name"], prompts
        self.inputs = [entry["name"] for entry in config["input"]]

    def execute(self, requests):
        """Make the prompt of each request."""
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        tensors = {name: pb_utils.get_input_tensor_by_name(request, name) for name in self.inputs}
        sent = {name: tensor.as_numpy().reshape(-1).tolist() for name, tensor in tensors.items() if tensor is not None}
        try:
            prompt = self.prompts.make(sent)
        except Refusal as refusal:
            error = pb_utils.TritonError(f"{self.name}: {refusal}", pb_utils.TritonError.INVALID_ARG)
            return pb_utils.InferenceResponse(error=error)
        outputs = {
            "input_ids": np.array([prompt.ids], np.int32),
            "input_lengths": np.array([[len(prompt.ids)]], np.int32),
            "streaming": np.array([[prompt.streaming]]),
            "stream_context": np.array([[prompt.context]], object),
        }
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, value) for name, value in outputs.items()])
