"""The learned score."""

import pytest

from app.llm.routing.features import NAMES, features_of
from app.llm.routing.score import (
    SCALE_LIMIT,
    UNIT,
    WEIGHTS_PATH,
    Weights,
    interpolated,
    scaled,
    shipped,
)

ZEROS = (0,) * len(NAMES)
PLAIN = Weights(
    means=ZEROS,
    deviations=(UNIT,) * len(NAMES),
    numbers=ZEROS,
    grams={"hard": 8_000, "very hard": 2_000, "easy": -6_000},
    ranks=(-UNIT, 0, UNIT),
)


def test_known_wording_is_summed_by_the_root_of_its_count():
    """Two known wordings count a little more than their mean, unknown ones nothing."""
    wording = PLAIN.terms(features_of("very hard indeed"))[-1]
    assert wording.name == "wording"
    assert wording.value == pytest.approx(1 / 2**0.5)


def test_nothing_known_adds_nothing():
    """A text of unknown words has no learned score of its wording."""
    assert PLAIN.terms(features_of("?"))[-1].value == 0
    assert PLAIN.known_share(features_of("?")) == 0
    assert PLAIN.known_share(features_of("")) == 0
    assert PLAIN.known_share(features_of("hard task")) == 0.5


def test_numbers_count_in_deviations_within_a_limit():
    """A text a hundred times as long as any exam question is not a hundred times as hard."""
    assert scaled(3.0, 20_000, 5_000) == 2.0
    assert scaled(1_000.0, 20_000, 5_000) == SCALE_LIMIT
    assert scaled(-1_000.0, 20_000, 5_000) == -SCALE_LIMIT


@pytest.mark.parametrize(
    ("raw", "rank"), [(-2.0, 0.0), (-1.0, 0.0), (-0.5, 0.25), (0.0, 0.5), (0.5, 0.75), (9.0, 1.0)]
)
def test_the_rank_is_linear_between_its_knots(raw, rank):
    """Below the first it is 0, above the last 1."""
    assert PLAIN.rank(raw) == rank


def test_equal_knots_are_no_division_by_zero():
    """Ranks may stand still."""
    assert interpolated([0.0, 1.0, 1.0, 2.0], 1.0) == pytest.approx(2 / 3)


def test_the_file_is_read_as_it_was_written():
    """Writing and reading change nothing."""
    assert Weights.read(PLAIN.written()) == PLAIN


def test_the_shipped_weights_are_small_and_canonical():
    """Less than 40 KB, and exactly what writing them again gives."""
    text = WEIGHTS_PATH.read_text(encoding="utf-8")
    assert len(text.encode()) < 40_000
    assert shipped().written() == text
    assert list(shipped().ranks) == sorted(shipped().ranks)
