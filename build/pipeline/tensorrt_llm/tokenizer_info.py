"""The vocabulary as TensorRT-LLM's C++ backend wants it for guided decoding with xgrammar.

The three keys of `xgrammar_tokenizer_info_path` (`getGuidedDecodingConfigFromParams` in
`inflight_batcher_llm/src/model_instance_state.cc`): `encoded_vocab`, `tokenizer_str`, `stop_token_ids`.
"""

import json
from collections.abc import Sequence
from pathlib import Path


def write_tokenizer_info(tokenizer: Path, vocabulary: int, end_ids: Sequence[int], out: Path) -> None:
    """Write the file for the `tokenizer` (tokenizer.json) of a model whose logits are `vocabulary` wide."""
    from tokenizers import Tokenizer

    read = Tokenizer.from_file(str(tokenizer))
    words = [""] * vocabulary
    for word, number in read.get_vocab(with_added_tokens=True).items():
        if number < vocabulary:
            words[number] = word
    info = {"encoded_vocab": words, "tokenizer_str": read.to_str(), "stop_token_ids": list(end_ids)}
    out.write_text(json.dumps(info, ensure_ascii=False) + "\n", encoding="utf-8")
