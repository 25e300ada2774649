"""A real tritonserver for tests, which is killed when they are done: it would take seconds to unload its models."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from serving import embedded
from serving.ports import free_ports
from serving.server import Launcher, Server
from yard.checkout import BACKENDS

READY_S = 120.0


@contextmanager
def live_server(
    repository: Path, log: Path, backends: Path = BACKENDS, launch: Launcher = embedded.launch
) -> Iterator[Server]:
    """Serve `repository`, all of it loaded, until it is left; the server writes to `log`."""
    with Server(repository, backends, free_ports(), log, launch) as running:
        running.wait_until_live(READY_S)
        yield running
        running.stop(at_once=True)
