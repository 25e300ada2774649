import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from ensembles.embed import EmbedSpec, embed_ensemble, length_buckets
from ensembles.pbtxt import HEADER, PbtxtError, dump, parse

SPEC = EmbedSpec("minilm", ("input_ids", "attention_mask", "token_type_ids"), 384, "mean", True, 256, 65536, 64, 1024)


def test_what_is_written_can_be_read_back() -> None:
    ensemble = embed_ensemble(SPEC)
    for model in (ensemble, *ensemble.models):
        text = dump(model)
        assert text.startswith(HEADER)
        config = parse(text, "config.pbtxt")
        assert config.name == model.name
        assert config == text_format.Parse(text, ModelConfig())


def test_the_encoder_holds_nothing_that_nvidias_backend_would_not_know() -> None:
    encoder = parse(dump(embed_ensemble(SPEC).models[1]), "encoder")
    assert encoder.backend == "onnxruntime"
    assert not encoder.parameters
    assert encoder.dynamic_batching.default_queue_policy.max_queue_size == 1024
    assert [(group.count, group.kind) for group in encoder.instance_group] == [(2, 2)]  # two instances of KIND_CPU


def test_every_step_reads_what_an_earlier_one_writes() -> None:
    ensemble = embed_ensemble(SPEC)
    known = {tensor.name for tensor in ensemble.inputs}
    for step in ensemble.steps:
        assert set(step.inputs.values()) <= known
        known |= set(step.outputs.values())
    assert {tensor.name for tensor in ensemble.outputs} <= known


def test_a_family_without_token_types_gets_none() -> None:
    spec = EmbedSpec("r", ("input_ids", "attention_mask"), 8, "cls", False, 64, 1024, 8, 8)
    text = "".join(dump(model) for model in (embed_ensemble(spec), *embed_ensemble(spec).models))
    assert "token_type_ids" not in text


@pytest.mark.parametrize("longest", [8, 16, 17, 128, 256, 384, 512, 2048])
def test_length_buckets_ascend_to_the_longest(longest: int) -> None:
    buckets = length_buckets(longest)
    assert buckets == sorted(set(buckets))
    assert buckets[-1] == longest


def test_a_broken_text_is_named_with_its_line() -> None:
    with pytest.raises(PbtxtError, match=r"^x/config\.pbtxt is not a valid config\.pbtxt: 2:1 "):
        parse('name: "x"\nmax_batch_sise: 8\n', "x/config.pbtxt")
