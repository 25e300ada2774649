import math
from dataclasses import replace

import pytest

from pipeline.fidelity import PROMPTS, PROSE, Fidelity, misses, read_lines
from pipeline.recipe import GenerateGate, GenerateQuality

GATE = GenerateGate(max_perplexity_increase=0.05, min_greedy_agreement=0.9, max_logit_difference=4.0)
FINE = Fidelity(600, 20.5, 20.0, 600, 0.95, 1.0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, []),
        ({"perplexity": 15.0}, []),
        (
            {"perplexity": 25.0},
            ["perplexity 25.00 is 25.0% above the checkpoint's 20.00, allowed are 5.0%"],
        ),
        (
            {"greedy_agreement": 0.725},
            ["greedy agreement 72.5% over 600 tokens is below the limit 90.0%"],
        ),
        ({"max_logit_difference": 5.0}, ["max logit difference 5 is above the limit 4"]),
    ],
)
def test_a_miss_says_by_how_much(change: dict[str, float], words: list[str]) -> None:
    assert misses(replace(FINE, **change), GATE) == words


def test_not_a_number_misses_every_limit() -> None:
    assert len(misses(Fidelity(600, math.nan, 20.0, 600, math.nan, math.nan), GATE)) == 3


def test_a_coarser_precision_may_be_further_off() -> None:
    gates = GenerateQuality()
    for finer, coarser in ((gates.fp32, gates.int8), (gates.int8, gates.int4)):
        assert finer.max_perplexity_increase <= coarser.max_perplexity_increase
        assert finer.min_greedy_agreement >= coarser.min_greedy_agreement
        assert finer.max_logit_difference <= coarser.max_logit_difference


def test_the_shipped_texts_are_enough_to_measure_on() -> None:
    assert 600 <= sum(len(passage.split()) for passage in read_lines(PROSE)) <= 900
    assert len(set(read_lines(PROMPTS))) == 8
