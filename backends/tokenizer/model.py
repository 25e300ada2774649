"""Triton python-based backend `tokenizer`: what a caller sends in, token ids out, or the text of a prompt.

Runs inside Triton from its own folder and imports nothing of the project. The version folder holds the checkpoint's
`tokenizer.json` (Hugging Face tokenizers), and where there are prompts `chat.json`. The model's outputs say its task:

    prompt               text for a decoder that tokenises by itself (TensorRT-LLM's LLM API): `template`
    request_output_len   prompts for a decoder that cannot echo a context (TensorRT-LLM's engine): `keyed_prompt`
    stream_context       prompts for a decoder that echoes it (`onnx_generate`): `echoed_prompt`
    none of them         texts for an encoder: `texts`
"""

import json
import os
from pathlib import Path

# The engine owns the cores; a batch of texts tokenises in a fraction of its time on one.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import triton_python_backend_utils as pb_utils
from prompt import Prompts
from texts import Texts
from tokenizers import Tokenizer


class TritonPythonModel:
    """The tokenizer step of the tasks embed (`texts.Texts`) and generate (`prompt_step.PromptStep`)."""

    def initialize(self, args):
        """Load the version folder; raise when a file or a parameter is missing, so that the model fails to load."""
        config = json.loads(args["model_config"])
        self.parameters = {key: entry["string_value"] for key, entry in config["parameters"].items()}
        self.name, self.folder = config["name"], Path(args["model_repository"]) / args["model_version"]
        tokenizer = Tokenizer.from_file(str(self._file("tokenizer.json")))
        tokenizer.no_padding()
        tokenizer.no_truncation()
        outputs = {entry["name"] for entry in config["output"]}
        if outputs & {"prompt", "request_output_len", "stream_context"}:
            self.step = self._prompt_step(config, outputs, tokenizer)
        else:
            truncating = Tokenizer.from_file(str(self._file("tokenizer.json")))
            self.step = Texts(config, self.parameters, tokenizer, truncating)

    def execute(self, requests):
        """Answer each request; a bad one is refused alone."""
        return self.step.execute(requests)

    def _prompt_step(self, config, outputs, tokenizer):
        from chat import Chat  # encoders do without Jinja
        from echoed_prompt import echoed
        from keyed_prompt import KeyedPrompts
        from prompt_step import PromptStep, open_stream_at
        from template import without_doubled_start
        from token_rules import TokenRules

        chat = Chat(json.loads(self._file("chat.json").read_text()))
        limits = int(self.parameters["max_tokens"]), int(self.parameters["max_text_bytes"])
        prompts = Prompts(tokenizer, chat, *limits)
        if "prompt" in outputs:
            return PromptStep(config, lambda sent, _: without_doubled_start(prompts, sent))
        if "request_output_len" in outputs:
            ends = json.loads(self._file("decoder.json").read_text())
            open_stream = open_stream_at(self.parameters["detokenizer"])
            return PromptStep(config, KeyedPrompts(prompts, ends["end_ids"], ends["pad_id"], open_stream).make)
        rules = TokenRules(tokenizer)
        return PromptStep(config, lambda sent, _: echoed(prompts.make(sent)) | rules.read(sent))

    def _file(self, name):
        file = self.folder / name
        if not file.exists():
            raise pb_utils.TritonModelException(f"{self.name}: {file} is missing; run `yard repository`")
        return file
