"""ONNX engines for GPUs, as far as a CPU can try them: float16 graphs, and caches in a fake GPU's memory."""

import ctypes
from pathlib import Path
from typing import Any

import decoder as decoder_module
import kv_cache
import numpy as np
import pytest
from decoder import Decoder, open_session
from half_decoder import ANSWER, PROMPTS, VOCABULARY, answer_together, write_half_decoder
from hypothesis import given
from hypothesis import strategies as st
from kv_cache import CudaRuntime, DeviceCache, HostCache
from tiny import write_decoder, write_encoder

from pipeline import onnx_encoder
from pipeline.encoder import read_encoder
from pipeline.fidelity import load_reference
from pipeline.greedy import GreedyDecoder
from pipeline.onnx_decoder import BuilderError, build, require_graph, save_facts


class FakeValue:
    """An OrtValue whose device is this process."""

    def __init__(self, values: Any, device: str, number: int) -> None:
        assert (device, number) == ("cuda", 0)
        self.values = values.copy()

    def data_ptr(self) -> int:
        return int(self.values.ctypes.data)


class FakeCudart:
    """libcudart over this process' memory; a copy is only there when the stream was waited for."""

    def __init__(self, code: int = 0) -> None:
        self.code = code
        self.pending: list[tuple[int, int, int]] = []
        self.cudaGetErrorString = lambda code: b"an illegal memory access was encountered"

    def cudaMemcpy2D(
        self, target: Any, pitch: Any, source: Any, pitch2: Any, width: Any, height: Any, kind: int
    ) -> int:
        assert (pitch.value, kind) == (pitch2.value, 3)
        assert width.value <= pitch.value
        for row in range(height.value):
            step = row * pitch.value
            self.pending.append((target.value + step, source.value + step, width.value))
        return self.code

    def cudaStreamSynchronize(self, stream: None) -> int:
        for target, source, size in self.pending:
            ctypes.memmove(target, source, size)
        self.pending.clear()
        return 0


@pytest.fixture(scope="module")
def fake_gpu() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kv_cache.ort, "OrtValue", type("OrtValue", (), {"ortvalue_from_numpy": staticmethod(FakeValue)}))
        yield


def values_at(at: tuple[Any, ...]) -> Any:
    """What lies where a binding was told to look."""
    _, _, dtype, shape, address = at
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer((ctypes.c_char * size).from_address(address), dtype).reshape(shape)


@pytest.mark.usefixtures("fake_gpu")
@given(st.data())
def test_a_gpus_cache_does_what_the_host_does(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.integers(1, most), label) for label, most in (("slots", 5), ("heads", 3), ("length", 7)))
    shape += (data.draw(st.integers(1, 4), "head size"),)
    dtype = data.draw(st.sampled_from([np.float16, np.float32]))
    host, device = HostCache(shape, dtype), DeviceCache(shape, dtype, CudaRuntime(FakeCudart()))
    filled = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    for cache in (host, device):
        values_at(cache.at(0, shape[0]))[:] = filled
    for _ in range(data.draw(st.integers(1, 3))):
        source, target = (data.draw(st.integers(0, shape[0] - 1)) for _ in range(2))
        lengths = [data.draw(st.integers(0, shape[2])) for _ in range(2)]
        swaps = data.draw(st.booleans(), "swaps") and source != target
        for cache in (host, device):
            cache.swap(source, target, lengths) if swaps else cache.copy(source, target, lengths[0])
    first = data.draw(st.integers(0, shape[0] - 1))
    end = data.draw(st.integers(first + 1, shape[0]))
    here, there = host.at(first, end), device.at(first, end)
    assert (here[0], there[0]) == ("cpu", "cuda")
    assert here[1:4] == there[1:4] == (0, dtype, (end - first, *shape[1:]))
    assert np.array_equal(values_at(here), values_at(there))


@pytest.mark.usefixtures("fake_gpu")
def test_a_gpus_cache_begins_with_zeros() -> None:
    cache = DeviceCache((2, 1, 3, 4), np.float16, CudaRuntime(FakeCudart()))
    assert not values_at(cache.at(0, 2)).any()


@pytest.mark.usefixtures("fake_gpu")
def test_a_copy_that_fails_is_an_error() -> None:
    cache = DeviceCache((2, 1, 3, 4), np.float16, CudaRuntime(FakeCudart(code=700)))
    with pytest.raises(RuntimeError, match="CUDA error 700: an illegal memory access was encountered"):
        cache.copy(0, 1, 2)


def test_the_cuda_runtime_is_the_one_that_is_loaded() -> None:
    ctypes.CDLL("libm.so.6")
    assert Path(kv_cache._loaded("libm.so")).name == "libm.so.6"
    with pytest.raises(RuntimeError, match=r"has loaded no libnowhere\.so: it is built without CUDA"):
        kv_cache._loaded("libnowhere.so")


@pytest.mark.parametrize(
    ("provider", "words"),
    [("gpu", "provider is 'gpu', which is not one of cpu, cuda"), ("cuda", "without it; install onnxruntime-gpu")],
)
def test_a_provider_that_is_not_to_be_had_is_refused(tmp_path: Path, provider: str, words: str) -> None:
    with pytest.raises(RuntimeError, match=words):
        open_session(tmp_path / "model.onnx", 1, provider)


def test_a_gpu_that_does_not_start_is_no_cpu(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime itself would go on with the CPU."""
    monkeypatch.setattr(decoder_module.ort, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    with pytest.warns(UserWarning, match="CUDAExecutionProvider"), pytest.raises(RuntimeError, match="does not start"):
        open_session(graph / "model.onnx", 1, "cuda")


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a float16 decoder of one layer."""
    return write_half_decoder(tmp_path_factory.mktemp("fp16"))


def test_a_graph_in_float16_can_be_served(graph: Path) -> None:
    found = require_graph(graph / "model.onnx", VOCABULARY)
    assert found["outputs"]["logits"] == ["tensor(float16)", [-1, 1, VOCABULARY]]
    with pytest.raises(BuilderError, match=r"its output logits is .* or \['tensor\(float16\)', \[-1, 1, 7\]\]"):
        require_graph(graph / "model.onnx", 7)


def test_slots_in_float16_say_what_the_plain_loop_says(graph: Path) -> None:
    """Rows of unequal length, one of them moved, give the tokens that each gives alone."""
    alone = [GreedyDecoder(graph, 1, 32).generate_greedy(prompt, ANSWER, ()) for prompt in PROMPTS]
    assert len({tuple(each) for each in alone}) == len(PROMPTS)
    first, second, last = answer_together(Decoder(graph, 4, 32, threads=1))
    assert (first, last) == (alone[0], alone[2])
    assert second == alone[1][: ANSWER // 2]


@pytest.mark.build
@pytest.mark.parametrize(
    ("family", "fused"), [("bert", True), ("bert", False), ("roberta", False), ("distilbert", False)]
)
def test_an_encoder_in_float16_says_what_its_checkpoint_says(tmp_path: Path, family: str, fused: bool) -> None:
    import onnx
    import torch

    checkpoint = write_encoder(tmp_path / "checkpoint", family)
    encoder = read_encoder(checkpoint)
    reference = onnx_encoder.load_reference(checkpoint)
    onnx_encoder.export(reference, encoder, "fp16", tmp_path, lambda stage: None, fused=fused)
    found = onnx_encoder.signature(tmp_path / "model.onnx")
    assert found["inputs"] == {name: ["tensor(int64)", [-1, -1]] for name in encoder.inputs}
    assert found["outputs"] == {"last_hidden_state": ["tensor(float)", [-1, -1, 32]]}
    graph = onnx.load(tmp_path / "model.onnx").graph
    assert ("com.microsoft" in {node.domain for node in graph.node}) == fused
    wide = [each.name for each in graph.initializer if each.data_type == onnx.TensorProto.FLOAT and len(each.dims) > 1]
    assert wide == []
    ids = np.array([[2, 7, 8, 9, 3], [2, 11, 3, 0, 0]])
    feeds = {"input_ids": ids, "attention_mask": (ids > 0).astype(np.int64), "token_type_ids": np.zeros_like(ids)}
    feeds = {name: feeds[name] for name in encoder.inputs}
    with torch.no_grad():
        wanted = reference(**{name: torch.from_numpy(value) for name, value in feeds.items()}).last_hidden_state.numpy()
    (given,) = onnx_encoder.open_session(tmp_path / "model.onnx", 1).run(None, feeds)
    assert 0 < np.abs(wanted - given)[ids > 0].max() < 0.02


@pytest.mark.build
def test_a_decoder_for_cuda_is_proved_on_the_cpu(tmp_path: Path) -> None:
    """Qwen 3 has norms inside attention, which for CUDA would be fused into an operator that the CPU lacks."""
    import torch

    checkpoint = write_decoder(tmp_path / "checkpoint", "qwen3")
    facts = save_facts(checkpoint, 512, tmp_path)
    build(checkpoint, "fp16", tmp_path, "cuda")
    found = require_graph(tmp_path / "model.onnx", facts["vocab_size"])
    assert found["inputs"]["past_key_values.0.key"][0] == "tensor(float16)"
    text = list(range(3, 40))
    with torch.no_grad():
        wanted = load_reference(checkpoint)(torch.tensor([text])).logits[0].numpy()
    given = np.concatenate(list(GreedyDecoder(tmp_path, 1, len(text)).teacher_forced([text])))
    assert 0 < np.abs(wanted - given).max() < 0.1
