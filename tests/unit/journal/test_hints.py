"""Hints between processes: small, and never about oneself."""

import pytest

from app.domain.ids import new_id
from app.journal.hints import ANYTHING, LIMIT_BYTES, Hint, UpstreamHint, hint_texts, parse_hint


def test_a_hint_names_the_tasks_of_a_commit_once_each():
    """What one process says another one reads."""
    (text,) = hint_texts("me", ["t2", "t1", "t2"])
    assert parse_hint(text, "other") == Hint(frozenset({"t1", "t2"}))


def test_nobody_heeds_its_own_hints():
    """The views have heard of those commits already."""
    (text,) = hint_texts("me", ["t"])
    assert parse_hint(text, "me") is None


@pytest.mark.parametrize("count", [206, 207, 5_000])
def test_a_hint_always_fits(count):
    """More tasks than a notification carries: look at everything."""
    ids = [new_id("task", number) for number in range(count)]
    (text,) = hint_texts(new_id("worker", 1), ids)
    assert len(text.encode()) <= LIMIT_BYTES
    hint = parse_hint(text, "other")
    assert hint in (ANYTHING, Hint(frozenset(ids)))
    assert (hint == ANYTHING) == (count > 206)


@pytest.mark.parametrize("tasks", [0, 1, 206, 5_000])
@pytest.mark.parametrize("pools", [1, 100, 1_000])
def test_what_was_met_upstream_is_said_whatever_else_is(tasks, pools):
    """It can be looked up nowhere: it goes in texts of its own where one has no room for all."""
    met = {UpstreamHint(f"a model/{number}", "rate_limited", 12.5) for number in range(pools)}
    ids = [new_id("task", number) for number in range(tasks)]
    texts = hint_texts(new_id("worker", 1), ids, met)
    assert all(len(text.encode()) <= LIMIT_BYTES for text in texts)
    hints = [hint for hint in (parse_hint(text, "other") for text in texts) if hint is not None]
    assert {told for hint in hints for told in hint.upstream} == met
    about = [hint.task_ids for hint in hints if hint.task_ids != frozenset()]
    assert about == ([] if not ids else [None if tasks > 206 else frozenset(ids)])


def test_a_name_that_no_notification_carries_takes_nothing_along():
    """The others are said."""
    met = [UpstreamHint(pool, "rate_limited", 1.0) for pool in ("a", "b" * LIMIT_BYTES, "c")]
    hints = [parse_hint(text, "other") for text in hint_texts("me", ["t"], met)]
    assert hints == [
        Hint(frozenset(), (met[0],)),
        Hint(frozenset(), (met[2],)),
        Hint(frozenset({"t"})),
    ]
