"""Tiny random encoders and decoders in Hugging Face layout, made by the tests: real files, no meaning."""

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


CHAT_TEMPLATE = (
    "{% for message in messages %}<bos>{{ message['role'] }}: {{ message['content'] }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<bos>assistant: {% endif %}"
)


def write_decoder(
    folder: Path, family: str, template: str | None = CHAT_TEMPLATE, shard: str = "5GB", **config: Any
) -> Path:
    """Write a random decoder of `family` with a byte-level tokenizer into `folder`, in shards of at most `shard`."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    vocabulary = write_byte_tokenizer(folder, template)
    torch.manual_seed(4)
    sizes: dict[str, Any] = {"vocab_size": vocabulary, "max_position_embeddings": 512}
    sizes |= {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
    sizes |= {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2, **config}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **sizes), dtype=torch.float32)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(6)  # as it comes, every logit is near zero and any engine near right
    model.save_pretrained(folder, max_shard_size=shard)
    return folder


def write_byte_tokenizer(folder: Path, template: str | None) -> int:
    """Write a byte-level BPE tokenizer of printable ASCII and some merges; return the size of its vocabulary."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = ["\u0120", *(chr(code) for code in range(33, 127))]
    merges = [("t", "h"), ("th", "e"), ("i", "n"), ("\u0120", "a")]
    words = ["<bos>", "<eos>", "<pad>", *letters, *("".join(pair) for pair in merges)]
    tokenizer = Tokenizer(models.BPE({word: number for number, word in enumerate(words)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>")
    fast.chat_template = template
    fast.save_pretrained(folder)
    return len(words)
