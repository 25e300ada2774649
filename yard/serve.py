"""`yard serve`: repository -> a server that has answered right."""

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from pipeline.recipe import Profile, read_recipes
from serving import container, embedded, supervisor
from serving.deployment import deployment
from serving.embedded import Ports
from serving.ports import free_ports
from serving.server import Server
from serving.site import Site, engine_caches, image_of
from yard import checkout
from yard.checkout import ARTIFACTS, BACKENDS, RECIPES, profile_option, shown
from yard.console import progress, say

PORT = click.IntRange(1, 65535)


@click.command()
@click.argument("models", nargs=-1)
@profile_option
@click.option(
    "--runtime",
    type=click.Choice(["embedded", "docker"]),
    help="The binary from PyPI (profile cpu, default) or NVIDIA's container (profile gpu, always).",
)
@click.option("--http-port", type=PORT, default=Ports.http, show_default=True)
@click.option("--grpc-port", type=PORT, default=Ports.grpc, show_default=True)
@click.option("--metrics-port", type=PORT, default=Ports.metrics, show_default=True)
@click.option("--shm-size", default="1g", show_default=True, help="Shared memory of the container.")
@click.option("--print", "print_only", is_flag=True, help="Print the commands and run nothing.")
def serve(
    models: tuple[str, ...],
    profile: Profile,
    runtime: str | None,
    http_port: int,
    grpc_port: int,
    metrics_port: int,
    shm_size: str,
    print_only: bool,
) -> None:
    """Serve the repository on loopback until Ctrl-C; ready means that a real request came back right.

    On the GPU MODELS are served, or all that are built.

    \b
    Example: yard serve --grpc-port 9001
    """
    if profile == "gpu" and runtime == "embedded":
        raise click.UsageError("--runtime embedded has no GPU; the profile gpu runs in NVIDIA's container")
    if profile == "cpu" and models:
        raise click.UsageError("MODELS are for --profile gpu; the profile cpu serves its whole repository")
    ports = Ports(http_port, grpc_port, metrics_port)
    site = gpu_site(models) if profile == "gpu" else None
    if print_only:
        _print(profile, runtime, ports, shm_size, site)
        return
    if site:
        site.require_machine()
    in_docker = runtime == "docker" or site is not None
    if in_docker:
        with progress("docker") as report:
            report("building the image")
            container.build_image(site)
    launch = container.launcher(shm_size, site) if in_docker else embedded.launch
    deployment = site.deployment if site else None
    server = Server(
        checkout.repository(profile), BACKENDS, ports, log_file(profile, ports), launch, deployment=deployment
    )
    try:
        with running(server, profile):
            say(f"ready: {server.grpc_url}, {server.http_url}, {server.metrics_url} (log: {shown(server.log)})")
            say("stop with Ctrl-C")
            supervisor.supervise(server, checkout.repository(profile), say)
    except KeyboardInterrupt:
        say("stopped")


@contextmanager
def running(server: Server, profile: Profile) -> Iterator[Server]:
    """Start `server` over the repository of `profile`, prove it ready, and stop it in the end."""
    with progress("tritonserver") as report:
        report("starting")
        supervisor.start(server, checkout.repository(profile), lambda _: report("loading models"))
    try:
        yield server
    finally:
        server.stop()


def own_server(profile: Profile) -> Server:
    """Return a server over the repository of `profile`, on free ports: one that nobody else is meant to call."""
    ports = free_ports()
    repository, log = checkout.repository(profile), log_file(profile, ports)
    if profile == "cpu":
        return Server(repository, BACKENDS, ports, log)
    site = gpu_site(())
    site.require_machine()
    container.build_image(site)
    return Server(repository, BACKENDS, ports, log, container.launcher("1g", site), deployment=site.deployment)


def gpu_site(models: tuple[str, ...]) -> Site:
    """Return where `models` of the profile `gpu` are served, all that are built when none is named.

    Raises ServingError: they cannot be served together.
    """
    repository = checkout.repository("gpu")
    chosen = deployment(repository, models)
    recipes = [recipe for recipe in read_recipes(RECIPES, "gpu") if recipe.name in chosen.models]
    caches = engine_caches(repository, chosen, ARTIFACTS / "tensorrt_cache")
    for folder in caches:
        folder.mkdir(parents=True, exist_ok=True)
    return Site(repository, chosen, image_of(chosen, recipes), os.environ.get("CUDA_VISIBLE_DEVICES"), caches)


def log_file(profile: str, ports: Ports) -> Path:
    """Return where the output of a server goes: one file for each profile and port."""
    return ARTIFACTS / "logs" / f"tritonserver-{profile}-{ports.grpc}.log"


def _print(profile: Profile, runtime: str | None, ports: Ports, shm_size: str, site: Site | None) -> None:
    repository = checkout.repository(profile)
    if runtime == "docker" or site:
        if container.builds_image(site):
            say(shlex.join(container.build_command(site)))
        say(shlex.join(container.run_command(repository, BACKENDS, ports, "tritonyard", "KEY", shm_size, site)))
    else:
        say(shlex.join(embedded.command(repository, Path("SCRATCH"), ports, "KEY")))
