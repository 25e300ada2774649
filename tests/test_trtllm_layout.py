"""The layout of random sizes: every row of every target filled once, and every share what whole heads and rows give."""

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from trtllm_checkpoints import ARCHITECTURES, config_of, shapes_of
from trtllm_rules import expected

from pipeline.tensorrt_llm.family import read_model
from pipeline.tensorrt_llm.layout import Layout, layout
from pipeline.tensorrt_llm.split import Split, require_split


@st.composite
def cases(draw: st.DrawFn) -> tuple[dict[str, Any], Split]:
    """A config.json and a split of it that divides."""
    family = draw(st.sampled_from(sorted(ARCHITECTURES)))
    tp, layers = draw(st.sampled_from([1, 2, 3, 4, 6, 8])), draw(st.integers(1, 5))
    kv_heads = draw(st.sampled_from([heads for heads in range(1, 13) if heads % tp == 0 or tp % heads == 0]))
    heads = int(np.lcm(kv_heads, tp)) * draw(st.integers(1, 2))
    size, tied = draw(st.integers(1, 3)), draw(st.booleans())
    sizes: dict[str, Any] = {"vocab_size": draw(st.integers(1, 30)), "tie_word_embeddings": tied}
    inner = tp * draw(st.integers(1, 3))
    if family == "gpt2":
        sizes |= {"n_embd": heads * size, "n_head": heads, "n_layer": layers, "n_inner": inner}
    else:
        sizes |= {"hidden_size": draw(st.integers(1, 9)), "head_dim": size, "num_hidden_layers": layers}
        sizes |= {"num_attention_heads": heads, "num_key_value_heads": kv_heads, "intermediate_size": inner}
    return config_of(family, **sizes), Split(tp, draw(st.integers(1, layers)))


def laid_out(config: dict[str, Any], split: Split) -> Layout:
    model = read_model("here", config)
    require_split("here", model, split)
    return layout(model, split)


@settings(max_examples=60, deadline=None)
@given(cases())
def test_the_pieces_put_together_are_what_the_rules_say(case: tuple[dict[str, Any], Split]) -> None:
    config, split = case
    made = laid_out(config, split)
    # Each number its own place in the checkpoint, from 1: 0 is padding.
    tensors, begin = {}, 1
    for name, shape in shapes_of(config).items():
        tensors[name] = np.arange(begin, begin + int(np.prod(shape)), dtype=np.int64).reshape(shape)
        begin += tensors[name].size
    assert {name: source.stored_shape for name, source in made.sources.items()} == shapes_of(config)
    filled = [{name: np.full(shape, -1, np.int64) for name, shape in rank.items()} for rank in made.targets]
    for name, source in made.sources.items():
        whole = tensors[name].T if source.transposed else tensors[name]
        for piece in source.pieces:
            part = whole[slice(*piece.rows)]
            part = part[:, slice(*piece.columns)] if piece.columns else part
            room = filled[piece.rank][piece.target][piece.at : piece.at + len(part)]
            assert room.shape == part.shape
            assert (room == -1).all(), f"{piece.target} is filled twice"
            room[:] = part
    wanted = expected(config, tensors, split.tp, split.pp, None)
    for rank, held in zip(filled, wanted, strict=True):
        assert rank.keys() == held.keys()
        for name, array in held.items():
            # What no piece fills stays zero in the file.
            assert np.where(rank[name] == -1, 0, rank[name]).tolist() == array.tolist(), name


@given(st.integers(1, 100), st.integers(1, 12))
def test_the_stages_hold_all_layers_in_order_the_first_ones_one_more(layers: int, pp: int) -> None:
    stages = Split(pp=pp).stages(layers)
    assert [layer for stage in stages for layer in stage] == list(range(layers))
    assert [len(stage) for stage in stages] == [len(part) for part in np.array_split(np.arange(layers), pp)]
