"""A real tritonserver that has answered its golden request."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from serving.golden import require_golden
from serving.ports import free_ports
from serving.server import Server
from yard.checkout import BACKENDS

READY_S = 120.0


@contextmanager
def golden_server(repository: Path, log: Path) -> Iterator[Server]:
    """Serve `repository` until it is left; the server writes to `log`."""
    with Server(repository, BACKENDS, free_ports(), log) as running:
        running.wait_until_live(READY_S)
        require_golden(running.grpc_url, repository, READY_S)
        yield running
