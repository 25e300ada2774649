"""A real tritonserver that has answered its golden request."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from live_server import READY_S, live_server

from serving.golden import require_golden
from serving.server import Server


@contextmanager
def golden_server(repository: Path, log: Path) -> Iterator[Server]:
    """Serve `repository` until it is left; the server writes to `log`."""
    with live_server(repository, log) as running:
        require_golden(running.grpc_url, repository, READY_S)
        yield running
