"""Tritonyard's client SDK: call a model on NVIDIA Triton in one line, without protobuf.

    with Client("grpc://127.0.0.1:8001", model="minilm") as client:
        embeddings = client.embed(["a text", "another"])   # FP32 [2, hidden]

Knows nothing of how models are built or served.
"""

from tritonyard._async_client import AsyncClient
from tritonyard._client import Client
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

__all__ = [
    "AccessDenied",
    "AsyncClient",
    "Client",
    "ClientClosed",
    "DeadlineExceeded",
    "InvalidRequest",
    "ModelNotFound",
    "ServerFailed",
    "ServerOverloaded",
    "ServerUnavailable",
    "TritonyardError",
]
