"""The figures of a router, on cases small enough to know them."""

import pytest

from training.corpus import Example
from training.evaluate import apgr, bootstrap, cpt, interval

HARD, EASY, NEITHER = Example("h", "d", 0, 1), Example("e", "d", 1, 1), Example("n", "d", 0, 0)
EXAMPLES = [HARD, EASY, EASY, NEITHER, EASY] * 20
PERFECT = [float(example is HARD) for example in EXAMPLES]
WORST = [-score for score in PERFECT]


def test_a_perfect_and_a_perverse_score():
    """All of the gap at a fifth of the calls, or at the very last."""
    assert apgr(PERFECT, EXAMPLES) == pytest.approx(0.9)
    assert apgr(WORST, EXAMPLES) == pytest.approx(0.1)
    assert (cpt(PERFECT, EXAMPLES, 0.5), cpt(PERFECT, EXAMPLES, 1.0)) == (0.1, 0.2)
    assert cpt(WORST, EXAMPLES, 0.5) == 0.9


def test_no_score_is_chance():
    """Equal scores keep the file's order, where hard ones are spread evenly."""
    assert apgr([0.0] * len(EXAMPLES), EXAMPLES) == pytest.approx(0.5)
    assert cpt([0.0] * len(EXAMPLES), EXAMPLES, 0.5) == pytest.approx(0.5, abs=0.05)


def test_the_bootstrap_is_paired_and_repeatable():
    """Every score meets the same samples, and the same ones each time."""
    first, second = bootstrap([PERFECT, PERFECT], EXAMPLES)
    assert first == second
    assert bootstrap([PERFECT], EXAMPLES) == [first]
    around = interval(0.9, first)
    assert around.low <= 0.9 <= around.high
    assert str(around).startswith("0.900 [0.")
