"""How the benchmark folds paired times: the median of their ratio, its interval, and what meets a target."""

import pytest

from bench.figure import interval, ratio


@pytest.mark.parametrize(
    ("count", "low", "high"),
    # Ranks of the sign test: for 25 and 100 pairs as in tables of it (Conover, Practical Nonparametric Statistics).
    [(1, 1, 1), (5, 1, 5), (6, 1, 6), (7, 1, 7), (25, 8, 18), (100, 40, 61)],
)
def test_the_interval_of_a_median(count, low, high):
    assert interval([float(value) for value in range(count, 0, -1)]) == (low, high)


@pytest.mark.parametrize(
    ("target", "at_least", "proved", "met"),
    [
        (4.0, False, False, True),
        (6.9, False, True, False),
        (7.0, False, True, True),
        (4.0, True, False, True),
        (1.1, True, True, False),
        (1.0, True, True, True),
    ],
)
def test_a_target_is_met_by_the_median_or_by_all_of_the_interval(target, at_least, proved, met):
    figure = ratio(
        "name",
        "what",
        [1.0, 4.0, 6.0, 8.0, 10.0, 12.0, 14.0],
        [1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0],
        target,
        at_least,
        proved,
    )
    assert (figure.value, figure.low, figure.high, figure.met) == (4, 1, 7, met)
