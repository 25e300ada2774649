"""Triton python-based backend `tokenizer`: text in, padded token ids out, one tokenizer call a batch.

Runs inside Triton from its own folder and imports nothing of the project. The version folder holds the checkpoint's
`tokenizer.json` (Hugging Face tokenizers). Model parameters:

    length_buckets   ascending lengths in tokens, comma separated; a request is padded to the smallest that holds its
                     longest text, so that Triton's batcher, which only joins equal shapes, finds partners behind it.
                     The last one is the longest text the model takes.
    max_text_bytes   longest text in UTF-8 bytes; checked before any tokenising.

A request's parameter `truncate: true` cuts longer texts to the last bucket; without it they are refused with both
lengths. A bad text fails its own request and no other of the batch.
"""

import json
import os
from bisect import bisect_left
from pathlib import Path

# The encoder owns the cores; a batch of texts tokenises in a fraction of its time on one.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import triton_python_backend_utils as pb_utils
from tokenizers import Tokenizer

# A request of this many tokens is a batch by itself and needs no partners: it is padded to its own longest text.
FULL_BATCH = 256


class BadText(Exception):
    """A text that this model does not take; the message is the caller's answer."""


class TritonPythonModel:
    """The tokenizer step: `text` BYTES [B, 1] -> token tensors INT64 [B, S] and `num_input_tokens` INT32 [B, 1]."""

    def initialize(self, args):
        """Load `tokenizer.json`; raise when it or a parameter is missing, so that the model fails to load."""
        config = json.loads(args["model_config"])
        self.name = config["name"]
        parameters = {key: entry["string_value"] for key, entry in config["parameters"].items()}
        self.buckets = [int(length) for length in parameters["length_buckets"].split(",")]
        self.max_text_bytes = int(parameters["max_text_bytes"])
        self.outputs = {entry["name"] for entry in config["output"]}
        file = Path(args["model_repository"]) / args["model_version"] / "tokenizer.json"
        if not file.exists():
            raise pb_utils.TritonModelException(f"{self.name}: {file} is missing; run `yard repository`")
        self.tokenizer = Tokenizer.from_file(str(file))
        padding = self.tokenizer.padding or {}
        self.pad_id = padding.get("pad_id", 0)
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        self.truncating = Tokenizer.from_file(str(file))
        self.truncating.no_padding()
        self.truncating.enable_truncation(max_length=self.buckets[-1])

    def execute(self, requests):
        """Tokenise the texts of all requests in one call and answer each request with its own rows."""
        batch = [self._texts(request) for request in requests]
        good = [text for texts in batch if not isinstance(texts, BadText) for text in texts]
        encodings = iter(self.tokenizer.encode_batch_fast(good))
        responses = []
        for request, texts in zip(requests, batch, strict=True):
            try:
                if isinstance(texts, BadText):
                    raise texts
                rows = [next(encodings) for _ in texts]
                responses.append(pb_utils.InferenceResponse(self._tensors(self._fit(request, texts, rows))))
            except BadText as error:
                refusal = pb_utils.TritonError(f"{self.name}: {error}", pb_utils.TritonError.INVALID_ARG)
                responses.append(pb_utils.InferenceResponse(error=refusal))
        return responses

    def _texts(self, request):
        """Decode the texts of one request; a BadText is returned, not raised: it must not stop the batch."""
        values = pb_utils.get_input_tensor_by_name(request, "text").as_numpy().reshape(-1)
        texts = []
        for index, value in enumerate(values):
            if len(value) > self.max_text_bytes:
                return BadText(
                    f"text {index} is {len(value)} bytes long, the longest this model takes is "
                    f"{self.max_text_bytes} bytes; split it"
                )
            try:
                texts.append(value.decode("utf-8"))
            except UnicodeDecodeError as error:
                return BadText(
                    f"text {index} is not UTF-8: byte 0x{value[error.start]:02x} at position {error.start}; "
                    "encode it as UTF-8"
                )
        return texts

    def _fit(self, request, texts, rows):
        """Return `rows` with none longer than the model takes; raise BadText unless the request truncates."""
        longest = self.buckets[-1]
        too_long = [index for index, row in enumerate(rows) if len(row.ids) > longest]
        if too_long and not self._truncates(request):
            index = too_long[0]
            raise BadText(
                f"text {index} has {len(rows[index].ids)} tokens, the longest this model takes is {longest} tokens; "
                "split it, or send the request parameter truncate=true"
            )
        for index in too_long:
            rows[index] = self.truncating.encode(texts[index])
        return rows

    def _truncates(self, request):
        """Read the request's own parameters, which Triton hands on as JSON."""
        return json.loads(request.parameters() or "{}").get("truncate") is True

    def _tensors(self, rows):
        """Pad the encodings of one request to one length and build the outputs that the model declares."""
        lengths = np.array([len(row.ids) for row in rows], np.int32)
        longest = int(lengths.max())
        padded = longest if longest * len(rows) >= FULL_BATCH else self.buckets[bisect_left(self.buckets, longest)]
        ids = np.full((len(rows), padded), self.pad_id, np.int64)
        for row, encoding, length in zip(ids, rows, lengths, strict=True):
            row[:length] = encoding.ids
        tensors = {
            "input_ids": ids,
            "attention_mask": (np.arange(padded) < lengths[:, None]).astype(np.int64),
            "num_input_tokens": lengths[:, None],
        }
        if "token_type_ids" in self.outputs:
            tensors["token_type_ids"] = np.zeros_like(ids)
            for row, encoding, length in zip(tensors["token_type_ids"], rows, lengths, strict=True):
                row[:length] = encoding.type_ids
        return [pb_utils.Tensor(name, value) for name, value in tensors.items()]
