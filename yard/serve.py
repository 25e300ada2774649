"""`yard serve`: repository -> a server that has answered right."""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from serving import container, embedded, supervisor
from serving.embedded import Ports
from serving.ports import free_ports
from serving.server import Server
from yard import checkout
from yard.checkout import ARTIFACTS, BACKENDS, profile_option, shown
from yard.console import progress, say

PORT = click.IntRange(1, 65535)


@click.command()
@profile_option
@click.option("--runtime", type=click.Choice(["embedded", "docker"]), default="embedded", show_default=True)
@click.option("--http-port", type=PORT, default=Ports.http, show_default=True)
@click.option("--grpc-port", type=PORT, default=Ports.grpc, show_default=True)
@click.option("--metrics-port", type=PORT, default=Ports.metrics, show_default=True)
@click.option("--shm-size", default="1g", show_default=True, help="Shared memory of the container.")
@click.option("--print", "print_only", is_flag=True, help="Print the commands and run nothing.")
def serve(
    profile: str,
    runtime: str,
    http_port: int,
    grpc_port: int,
    metrics_port: int,
    shm_size: str,
    print_only: bool,
) -> None:
    """Serve the repository on loopback until Ctrl-C; ready means that a real request came back right.

    \b
    Example: yard serve --grpc-port 9001
    """
    ports = Ports(http_port, grpc_port, metrics_port)
    if print_only:
        _print(profile, runtime, ports, shm_size)
        return
    if runtime == "docker":
        with progress("docker") as report:
            report(f"building {container.IMAGE}")
            container.build_image()
    launch = container.launcher(shm_size) if runtime == "docker" else embedded.launch
    server = Server(checkout.repository(profile), BACKENDS, ports, log_file(profile, ports), launch)
    try:
        with running(server, profile):
            say(f"ready: {server.grpc_url}, {server.http_url}, {server.metrics_url} (log: {shown(server.log)})")
            say("stop with Ctrl-C")
            supervisor.supervise(server, checkout.repository(profile), say)
    except KeyboardInterrupt:
        say("stopped")


@contextmanager
def running(server: Server, profile: str) -> Iterator[Server]:
    """Start `server` over the repository of `profile`, prove it ready, and stop it in the end."""
    with progress("tritonserver") as report:
        report("starting")
        supervisor.start(server, checkout.repository(profile), lambda _: report("loading models"))
    try:
        yield server
    finally:
        server.stop()


def own_server(profile: str) -> Server:
    """Return a server over the repository of `profile`, on free ports: one that nobody else is meant to call."""
    ports = free_ports()
    return Server(checkout.repository(profile), BACKENDS, ports, log_file(profile, ports))


def log_file(profile: str, ports: Ports) -> Path:
    """Return where the output of a server goes: one file for each profile and port."""
    return ARTIFACTS / "logs" / f"tritonserver-{profile}-{ports.grpc}.log"


def _print(profile: str, runtime: str, ports: Ports, shm_size: str) -> None:
    repository = checkout.repository(profile)
    if runtime == "docker":
        say(shlex.join(container.build_command()))
        say(shlex.join(container.run_command(repository, BACKENDS, ports, "tritonyard", "KEY", shm_size)))
    else:
        say(shlex.join(embedded.command(repository, Path("SCRATCH"), ports, "KEY")))
