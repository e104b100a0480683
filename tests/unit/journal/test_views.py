"""Events from outside: money in USD, instants as text, the same in every view."""

import json
import logging
import re
from decimal import Decimal

import pytest

from app.domain.task import Subject
from app.journal.call_events import ModelAnswered
from app.journal.events import EVENTS, ModelFellBack, TaskRequeued
from app.journal.journal import Recorded
from app.journal.views import LogView, public_entry, public_fields
from tests.support.clock import START_US
from tests.support.events import example, examples

SUBJECT = Subject("t", "s", run=2)


@pytest.mark.parametrize("name", sorted(EVENTS))
def test_public_fields_have_public_units(name):
    """No nano-dollars and no microseconds outside; every value is plain JSON."""
    shown = public_fields(example(EVENTS[name]))
    assert not [key for key in shown if re.search(r"(_nano|_us)$", key)]
    assert json.loads(json.dumps(shown)).keys() == shown.keys()


def test_absent_values_are_absent():
    """None is not shown as null: the field is left out."""
    for event in examples():
        assert None not in public_fields(event).values()


def test_money_is_exact_to_the_nano_dollar():
    """An amount's JSON number has exactly its nano-dollars."""
    event = example(ModelAnswered)
    shown = public_fields(event)["cost_usd"]
    assert Decimal(repr(shown)) == Decimal(1_234_567_890) / 10**9


def test_several_amounts_are_as_exact() -> None:
    """Each of a field's amounts is in USD, in their order."""
    shown = public_fields(example(ModelFellBack))["alternatives_worst_usd"]
    assert [Decimal(repr(usd)) for usd in shown] == [Decimal("1.234567890"), Decimal("1E-9")]


def test_instants_are_text():
    """An instant is RFC 3339 in UTC."""
    shown = public_fields(TaskRequeued(reason="drain", available_at_us=START_US))
    assert shown == {"reason": "drain", "available_at": "2026-11-22T12:00:00.000000Z"}


def test_entry_says_who_and_when():
    """The events API's entry has number, type, instant, run and the fields."""
    entry = Recorded(7, START_US, SUBJECT, TaskRequeued(reason="drain", available_at_us=START_US))
    shown = public_entry(entry)
    assert (shown["seq"], shown["type"], shown["run"]) == (7, "task_requeued", 2)
    assert shown["at"] == "2026-11-22T12:00:00.000000Z"
    assert shown["data"]["reason"] == "drain"


@pytest.mark.parametrize("simulated", [True, False])
def test_log_line_has_the_same_fields_as_the_events_api(simulated):
    """One event, two views: the log line carries the entry's data and its subject."""
    records: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    view, keep = LogView(simulated=simulated), Keep()
    view._logger.addHandler(keep)
    try:
        entry = Recorded(
            7, START_US, SUBJECT, TaskRequeued(reason="drain", available_at_us=START_US)
        )
        view(entry)
    finally:
        view._logger.removeHandler(keep)
    (record,) = records
    fields = record.__dict__["fields"]
    data = public_entry(entry)["data"]
    assert fields | data == fields
    assert (fields["task_id"], fields["session_id"], fields["run"]) == ("t", "s", 2)
    assert fields.get("simulated", False) is simulated
    assert record.getMessage() == "task_requeued"
