"""Hints between processes: small, and never about oneself."""

import pytest

from app.domain.ids import new_id
from app.journal.hints import ANYTHING, LIMIT_BYTES, Hint, hint_text, parse_hint


def test_a_hint_names_the_tasks_of_a_commit_once_each():
    """What one process says another one reads."""
    text = hint_text("me", ["t2", "t1", "t2"])
    assert parse_hint(text, "other") == Hint(frozenset({"t1", "t2"}))


def test_nobody_heeds_its_own_hints():
    """The views have heard of those commits already."""
    assert parse_hint(hint_text("me", ["t"]), "me") is None


@pytest.mark.parametrize("count", [206, 207, 5_000])
def test_a_hint_always_fits(count):
    """More tasks than a notification carries: look at everything."""
    ids = [new_id("task", number) for number in range(count)]
    text = hint_text(new_id("worker", 1), ids)
    assert len(text.encode()) <= LIMIT_BYTES
    hint = parse_hint(text, "other")
    assert hint in (ANYTHING, Hint(frozenset(ids)))
    assert (hint == ANYTHING) == (count > 206)
