"""`yard demo`: the whole way in its order, on real weights."""

import sys

import click

from loadtests.scenario import locate
from pipeline.engines import Engines
from pipeline.recipe import read_recipes
from yard import embed, engines, repository
from yard.checkout import ARTIFACTS, RECIPES, RUNS
from yard.console import say
from yard.loadtest import judge
from yard.serve import own_server, running

PROFILE = "cpu"
MODEL = "minilm"
SCENARIO = "embed_smoke"


@click.command()
def demo() -> None:
    """Checkpoint, engine, repository, server, answers, load test, verdict; leaves nothing running.

    \b
    Example: yard demo
    """
    store = Engines(ARTIFACTS)
    for recipe in read_recipes(RECIPES):
        engines.build(store, recipe)
    repository.build(None, PROFILE)
    server = own_server(PROFILE)
    with running(server, PROFILE):
        say(f"server ready on {server.grpc_url} and {server.http_url}: its golden request came back right")
        embed.show(server.grpc_url, MODEL, embed.DEMO_TEXTS)
        verdict = judge(locate(SCENARIO), server.grpc_url, RUNS)
    say("server stopped")
    sys.exit(verdict.exit_code)
