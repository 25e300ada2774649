"""Tritonyard's client SDK: call a model on NVIDIA Triton in one line, without protobuf.

    with Client("grpc://127.0.0.1:8001", model="minilm") as client:
        embeddings = client.embed(["a text", "another"])   # FP32 [2, hidden]

    with Client("grpc://127.0.0.1:8001", model="smollm2") as client:
        for delta in client.generate("Once upon a time", stream=True):
            print(delta.text, end="", flush=True)

    with Client("grpc://127.0.0.1:8001") as client:
        found = client.infer("minilm_tokenizer", text=["a text"])  # {"input_ids": INT64 [1, tokens], ...}

Knows nothing of how models are built or served.
"""

from tritonyard._async_client import AsyncClient
from tritonyard._client import Client
from tritonyard._connection import Tls
from tritonyard._errors import (
    AccessDenied,
    ClientClosed,
    DeadlineExceeded,
    InvalidRequest,
    ModelNotFound,
    ServerFailed,
    ServerOverloaded,
    ServerUnavailable,
    TritonyardError,
)
from tritonyard._event import Event
from tritonyard._generation import Choice, Delta, Generation, LogProb, Timing, Usage
from tritonyard._mock import MockTransport
from tritonyard._options import Options
from tritonyard._retry import Retry
from tritonyard._stream import AsyncStream, Stream
from tritonyard._transport import Generate, GetConfig, Infer, ModelConfig, Probe, TensorConfig

__all__ = [
    "AccessDenied",
    "AsyncClient",
    "AsyncStream",
    "Choice",
    "Client",
    "ClientClosed",
    "DeadlineExceeded",
    "Delta",
    "Event",
    "Generate",
    "Generation",
    "GetConfig",
    "Infer",
    "InvalidRequest",
    "LogProb",
    "MockTransport",
    "ModelConfig",
    "ModelNotFound",
    "Options",
    "Probe",
    "Retry",
    "ServerFailed",
    "ServerOverloaded",
    "ServerUnavailable",
    "Stream",
    "TensorConfig",
    "Timing",
    "Tls",
    "TritonyardError",
    "Usage",
]
