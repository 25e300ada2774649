"""Large tensors in shared memory: where they lie, and a real tritonserver that reads and writes them there."""

import itertools
import json
from urllib.request import Request, urlopen

import numpy as np
import psutil
import pytest
from client_kinds import CLIENTS
from hypothesis import given
from hypothesis import strategies as st
from live_server import live_server

from serving.embedded import ADMIN_HEADER
from tritonyard import AccessDenied, Client, Infer, InvalidRequest, ModelConfig, ServerFailed, TensorConfig
from tritonyard._shared_memory import ALIGNMENT, FOLDER, LARGE, PREFIX, Segments, laid_out
from tritonyard._transport import Input

SIZE = 1 << 18  # values of FP32: 1 MB
MODEL = """
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(pb_utils.get_input_tensor_by_name(request, "x").as_numpy()) for request in requests]

    def answer(self, x):
        if x.flat[0] < 0:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError("below 0"))
        tensors = [pb_utils.Tensor("y", 2 * x), pb_utils.Tensor("sum", x.sum(axis=1, keepdims=True))]
        return pb_utils.InferenceResponse([*tensors, pb_utils.Tensor("any", x[:, :7])])
"""
CONFIG = f"""
name: "double"
backend: "python"
max_batch_size: 4
input {{ name: "x" data_type: TYPE_FP32 dims: {SIZE} }}
output {{ name: "y" data_type: TYPE_FP32 dims: {SIZE} }}
output {{ name: "sum" data_type: TYPE_FP32 dims: 1 }}
output {{ name: "any" data_type: TYPE_FP32 dims: -1 }}
"""


@given(st.lists(st.integers(0, 3 * LARGE), min_size=1, max_size=6), st.integers(0, 4), st.integers(1, LARGE))
def test_no_two_tensors_lie_on_each_other(sizes, batch, width):
    inputs = tuple(Input(str(index), "UINT8", (1, size), bytes(size)) for index, size in enumerate(sizes))
    outputs = {
        "y": TensorConfig("FP64", (width,)),
        "any": TensorConfig("FP64", (-1,)),
        "text": TensorConfig("BYTES", (9,)),
    }
    layout = laid_out(Infer("m", inputs, tuple(outputs)), ModelConfig(batch, {}, outputs))
    assert set(layout.inputs) == {str(index) for index, size in enumerate(sizes) if size >= LARGE}
    assert set(layout.outputs) <= {"y"}
    assert ("y" in layout.outputs) == (8 * width >= LARGE)
    taken = sorted([*layout.inputs.values(), *layout.outputs.values()])
    assert all(offset % ALIGNMENT == 0 for offset, _ in taken)
    assert all(offset + size <= after for (offset, size), (after, _) in itertools.pairwise(taken))
    assert layout.size == (sum(taken[-1]) if taken else 0)


def test_a_segment_is_kept_for_what_fits_in():
    segments = Segments()
    large = segments.take(5 << 20)
    small = segments.take(100)
    assert (large.size, small.size) == (8 << 20, 1 << 20)
    segments.give_back(large)
    segments.give_back(small)
    assert segments.take(1 << 20) is small
    assert segments.take(2 << 20) is large
    assert len(segments.drain()) == 2
    assert segments.drain() == []
    large.close()
    small.close()


def test_memory_that_cannot_be_had():
    with pytest.raises(InvalidRequest, match="bytes of shared memory in /dev/shm cannot be had"):
        Segments().take(1 << 50)
    assert not list(FOLDER.glob(f"{PREFIX}*"))


def test_one_server():
    with pytest.raises(InvalidRequest, match="shared_memory is with one server"):
        Client(["a", "b"], shared_memory=True)


@pytest.fixture(scope="module")
def doubling(tmp_path_factory):
    repository = tmp_path_factory.mktemp("repository")
    (repository / "double" / "1").mkdir(parents=True)
    (repository / "double" / "config.pbtxt").write_text(CONFIG)
    (repository / "double" / "1" / "model.py").write_text(MODEL)
    with live_server(repository, tmp_path_factory.mktemp("logs") / "log") as running:
        with Client(running.grpc_url, timeout=60) as client:
            while not client.model_ready("double"):
                pass
        yield running


def regions(server):
    url = f"{server.http_url}/v2/systemsharedmemory/status"
    with urlopen(Request(url, headers={ADMIN_HEADER: server.admin_key}), timeout=5) as status:
        return [each["name"] for each in json.load(status)]


@pytest.mark.server
@pytest.mark.parametrize("kind", sorted(CLIENTS))
@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_the_server_reads_and_writes_there(doubling, kind, scheme):
    url = doubling.grpc_url if scheme == "grpc" else doubling.http_url
    prefix = "triton-grpc-protocol-" if scheme == "grpc" else ""
    headers = {prefix + ADMIN_HEADER: doubling.admin_key}
    dice = np.random.default_rng(0)
    with CLIENTS[kind](url, model="double", shared_memory=True, headers=headers, timeout=20) as client:
        for batch in (1, 3, 2):
            x = dice.random((batch, SIZE), np.float32)
            found = client.infer(x=x)
            assert np.array_equal(found["y"], 2 * x)
            assert np.allclose(found["sum"], x.sum(axis=1, keepdims=True), rtol=1e-4)
            assert np.array_equal(found["any"], x[:, :7])
        (name, *others) = regions(doubling)
        assert len(others) <= 1
        assert not list(FOLDER.glob(f"{PREFIX}*"))
        with pytest.raises((ServerFailed, InvalidRequest), match="below 0"):
            client.infer(x=-x)
        # That segment is never used again, and the next request has another.
        assert np.array_equal(client.infer(x=x, outputs="y")["y"], 2 * x)
        assert len(regions(doubling)) > len(others)
    assert regions(doubling) == []
    assert not [each.path for each in psutil.Process().memory_maps() if PREFIX in each.path]
    assert name.startswith(PREFIX)


@pytest.mark.server
@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_a_server_that_does_not_share_with_everyone(doubling, scheme):
    url = doubling.grpc_url if scheme == "grpc" else doubling.http_url
    with Client(url, model="double", shared_memory=True, timeout=20) as client:
        with pytest.raises(AccessDenied, match="restricted"):
            client.infer(x=np.zeros((1, SIZE), np.float32))
        assert not list(FOLDER.glob(f"{PREFIX}*"))
