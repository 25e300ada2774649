"""Texts -> padded token ids: the tokenizer step of the embed task, one tokenizer call a batch.

Model parameters:

    length_buckets   ascending lengths in tokens, comma separated; a request is padded to the smallest that holds its
                     longest text, so that Triton's batcher, which only joins equal shapes, finds partners behind it.
                     The last one is the longest text the model takes.
    max_text_bytes   longest text in UTF-8 bytes; checked before any tokenising.

A request's parameter `truncate: true` cuts longer texts to the last bucket; without it they are refused with both
lengths. A bad text fails its own request and no other of the batch.
"""

import json
from bisect import bisect_left

import numpy as np
import triton_python_backend_utils as pb_utils
from refusal import Refusal, utf8

# A request of this many tokens is a batch by itself and needs no partners: it is padded to its own longest text.
FULL_BATCH = 256


class Texts:
    """`text` BYTES [B, 1] -> token tensors INT64 [B, S] and `num_input_tokens` INT32 [B, 1].

    `tokenizer` pads and truncates nothing; `truncating` is its twin, which is told here where to cut.
    """

    def __init__(self, config, parameters, tokenizer, truncating):
        self.name = config["name"]
        self.buckets = [int(length) for length in parameters["length_buckets"].split(",")]
        self.max_text_bytes = int(parameters["max_text_bytes"])
        self.outputs = {entry["name"] for entry in config["output"]}
        padding = truncating.padding or {}
        self.pad_id = padding.get("pad_id", 0)
        self.tokenizer, self.truncating = tokenizer, truncating
        self.truncating.no_padding()
        self.truncating.enable_truncation(max_length=self.buckets[-1])

    def execute(self, requests):
        """Tokenise the texts of all requests in one call and answer each request with its own rows."""
        batch = [self._texts(request) for request in requests]
        good = [text for texts in batch if not isinstance(texts, Refusal) for text in texts]
        encodings = iter(self.tokenizer.encode_batch_fast(good))
        responses = []
        for request, texts in zip(requests, batch, strict=True):
            try:
                if isinstance(texts, Refusal):
                    raise texts
                rows = [next(encodings) for _ in texts]
                responses.append(pb_utils.InferenceResponse(self._tensors(self._fit(request, texts, rows))))
            except Refusal as error:
                refusal = pb_utils.TritonError(f"{self.name}: {error}", pb_utils.TritonError.INVALID_ARG)
                responses.append(pb_utils.InferenceResponse(error=refusal))
        return responses

    def _texts(self, request):
        """Decode the texts of one request; a Refusal is returned, not raised: it must not stop the batch."""
        values = pb_utils.get_input_tensor_by_name(request, "text").as_numpy().reshape(-1)
        texts = []
        for index, value in enumerate(values):
            if len(value) > self.max_text_bytes:
                return Refusal(
                    f"text {index} is {len(value)} bytes long, the longest this model takes is "
                    f"{self.max_text_bytes} bytes; split it"
                )
            try:
                texts.append(utf8(value, f"text {index}"))
            except Refusal as refusal:
                return refusal
        return texts

    def _fit(self, request, texts, rows):
        """Return `rows` with none longer than the model takes; raise Refusal unless the request truncates."""
        longest = self.buckets[-1]
        too_long = [index for index, row in enumerate(rows) if len(row.ids) > longest]
        if too_long and not self._truncates(request):
            index = too_long[0]
            raise Refusal(
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
