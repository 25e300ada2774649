"""Loopback ports: free ones, and who holds a taken one."""

import contextlib
import socket

import psutil

from serving.embedded import Ports
from serving.errors import ServingError


def free_ports() -> Ports:
    """Return three ports that nobody listens on at this moment."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(3)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        http, grpc, metrics = (each.getsockname()[1] for each in sockets)
    return Ports(http, grpc, metrics)


def require_free(ports: Ports) -> None:
    """Raise ServingError, with the holder where it can be seen, when one of `ports` is taken."""
    for use, port in vars(ports).items():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                raise ServingError(
                    f"{use} port {port} cannot be used: {error.strerror}{_holder(port)}; "
                    f"stop that process, or choose another one with --{use}-port"
                ) from None


def _holder(port: int) -> str:
    with contextlib.suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            if connection.laddr and connection.laddr.port == port and connection.pid:
                return f" (held by {psutil.Process(connection.pid).name()}, process {connection.pid})"
    return ""
