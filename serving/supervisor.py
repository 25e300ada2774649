"""Keep one server running: started, proved ready, restarted when it dies, given up when it keeps dying."""

import time
from collections.abc import Callable
from pathlib import Path

from serving.embedded import Ports
from serving.errors import ServingError
from serving.golden import require_golden
from serving.ports import require_free
from serving.preflight import require_machine, require_repository
from serving.server import Server

READY_S = 120.0
# Weights of a hundred gigabytes are read from disk first.
GPU_READY_S = 1800.0
GOLDEN_S = 30.0
# A crash now and then is survived; a server that dies this often this fast is broken.
RESTARTS = 5
WINDOW_S = 300.0
# How long a killed server may hold its ports.
FREE_S = 5.0


def start(server: Server, repository: Path, on_wait: Callable[[float], None]) -> None:
    """Start `server` over `repository` and wait until it answers right.

    Raises ServingError, with nothing left running: a port is taken, the machine or the repository is not fit, a
    model does not load, or an answer is wrong.
    """
    if server.is_embedded:
        require_machine()
    members = server.deployment.members if server.deployment else None
    require_repository(repository, members)
    require_free(server.ports)
    server.start()
    try:
        server.wait_until_live(GPU_READY_S if server.deployment else READY_S, on_wait)
        require_golden(server.grpc_url, repository, GOLDEN_S, members)
    except BaseException:
        server.stop()
        raise


def supervise(server: Server, repository: Path, say: Callable[[str], None]) -> None:
    """Wait on a started server for ever, and start it again when it dies.

    Raises ServingError when it broke more than RESTARTS times within WINDOW_S seconds.
    """
    deaths: list[float] = []
    while True:
        why = server.wait_until_broken()
        deaths = [when for when in deaths if when > time.monotonic() - WINDOW_S] + [time.monotonic()]
        if len(deaths) > RESTARTS:
            raise ServingError(f"the server broke {len(deaths)} times in {WINDOW_S:.0f} s: {why}; {server.explain()}")
        say(f"{why}; starting the server again")
        server.stop(at_once=True)
        _wait_until_free(server.ports)
        start(server, repository, lambda _: None)
        say("ready again")


def _wait_until_free(ports: Ports) -> None:
    """Wait a little for what the dead server still holds: its own keeper, killed, cannot see to its end."""
    end = time.monotonic() + FREE_S
    while time.monotonic() < end:
        try:
            require_free(ports)
        except ServingError:
            time.sleep(0.1)
        else:
            return
