"""`yard demo`: the whole way in its order, on real weights."""

import sys

import click

from loadtests.traffic.scenario import locate
from pipeline.engines import Engines
from pipeline.recipe import Profile, read_recipes
from yard import ask, embed, engines, repository
from yard.checkout import ARTIFACTS, RECIPES, RUNS
from yard.console import say
from yard.loadtest import judge
from yard.serve import own_server, running
from yard.target import Target

PROFILE: Profile = "cpu"
QUESTION = "Why is the sky blue?"
ANSWER_TOKENS = 80
SCENARIOS = ("embed_smoke", "generate_smoke")


@click.command()
def demo() -> None:
    """Checkpoints, engines, repository, server, answers, load tests, verdicts; leaves nothing running.

    \b
    Example: yard demo
    """
    store = Engines(ARTIFACTS)
    for recipe in read_recipes(RECIPES, PROFILE):
        engines.build(store, store.plan(recipe, PROFILE))
    repository.build(None, PROFILE)
    server = own_server(PROFILE)
    with running(server, PROFILE):
        say(f"server ready on {server.grpc_url} and {server.http_url}: its golden request came back right")
        embed.show(server.grpc_url, "minilm", embed.DEMO_TEXTS)
        say(f"smollm2 is asked: {QUESTION}")
        ask.show(server.grpc_url, "smollm2", QUESTION, ANSWER_TOKENS)
        target = Target(server.grpc_url, server.metrics_url)
        verdicts = [judge(locate(scenario), target, RUNS) for scenario in SCENARIOS]
    say("server stopped")
    sys.exit(next((verdict.exit_code for verdict in verdicts if verdict.exit_code), 0))
