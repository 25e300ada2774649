"""Tiny random encoders in Hugging Face layout, made by the tests: real files, no meaning."""

import json
from pathlib import Path
from typing import Any

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz", "the", "cat", "rain", "yes", "."]


def write_encoder(folder: Path, family: str, pooling: str = "mean", normalize: bool = False) -> Path:
    """Write a random encoder of `family` (bert, roberta, distilbert) with a word-piece tokenizer into `folder`."""
    import torch
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(4)
    sizes: dict[str, Any] = {"vocab_size": len(WORDS), "max_position_embeddings": 72, "pad_token_id": 0}
    if family == "distilbert":
        sizes |= {"dim": 32, "n_heads": 4, "n_layers": 2, "hidden_dim": 64}
    else:
        sizes |= {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 64}
    AutoModel.from_config(AutoConfig.for_model(family, **sizes)).save_pretrained(folder)
    write_tokenizer(folder)
    modules = [{"type": "m.Transformer", "path": ""}, {"type": "m.Pooling", "path": "1_Pooling"}]
    modules += [{"type": "m.Normalize", "path": "2_Normalize"}] if normalize else []
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": pooling}))
    return folder


def write_tokenizer(folder: Path) -> None:
    """Write a word-piece tokenizer over WORDS as tokenizer.json."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
