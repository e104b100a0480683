"""Windows: which day and month an instant belongs to, and when they end."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.budget.scopes import (
    KINDS,
    SERVICE,
    Payer,
    Scope,
    key_windows,
    resets_at_us,
    service_windows,
    session_scope,
    task_scope,
)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
US = timedelta(microseconds=1)


def us(text: str) -> int:
    """An instant, in microseconds since the epoch."""
    return (datetime.fromisoformat(text).replace(tzinfo=UTC) - EPOCH) // US


INSTANTS = {
    "1970-01-01T00:00:00": ("1970-01-01", "1970-01-02", "1970-02-01"),
    "2026-11-22T12:00:00": ("2026-11-22", "2026-11-23", "2026-12-01"),
    "2026-11-22T00:00:00": ("2026-11-22", "2026-11-23", "2026-12-01"),
    "2026-11-22T00:00:00.000001": ("2026-11-22", "2026-11-23", "2026-12-01"),
    "2026-11-21T23:59:59.999999": ("2026-11-21", "2026-11-22", "2026-12-01"),
    "2026-11-30T23:59:59.999999": ("2026-11-30", "2026-12-01", "2026-12-01"),
    "2026-12-31T23:59:59.999999": ("2026-12-31", "2027-01-01", "2027-01-01"),
    "2027-01-01T00:00:00": ("2027-01-01", "2027-01-02", "2027-02-01"),
    "2026-01-31T10:00:00": ("2026-01-31", "2026-02-01", "2026-02-01"),
    "2027-02-28T23:59:59.999999": ("2027-02-28", "2027-03-01", "2027-03-01"),
    "2028-02-28T23:59:59.999999": ("2028-02-28", "2028-02-29", "2028-03-01"),
    "2028-02-29T12:00:00": ("2028-02-29", "2028-03-01", "2028-03-01"),
    "2100-02-28T12:00:00": ("2100-02-28", "2100-03-01", "2100-03-01"),
}
"""Instant: its day, the day after it, and the first day after its month."""


@pytest.mark.parametrize("instant", INSTANTS)
def test_the_service_has_a_day_and_a_month(instant):
    """An instant belongs to its UTC day and month; the first microsecond of a day is the day's."""
    day, _, _ = INSTANTS[instant]
    month = day.rpartition("-")[0]
    assert service_windows(us(instant)) == (
        Scope("service_day", day),
        Scope("service_month", month),
    )


@pytest.mark.parametrize("instant", INSTANTS)
def test_a_key_has_windows_of_its_own(instant):
    """The same windows, with the key's id before them."""
    day, _, _ = INSTANTS[instant]
    month = day.rpartition("-")[0]
    windows = key_windows("key_1", us(instant))
    assert windows == (Scope("key_day", f"key_1/{day}"), Scope("key_month", f"key_1/{month}"))


@pytest.mark.parametrize("instant", INSTANTS)
def test_a_window_ends_where_the_next_begins(instant):
    """A day ends at the next midnight, a month at the midnight of the next first."""
    _, tomorrow, next_month = INSTANTS[instant]
    for windows in (service_windows(us(instant)), key_windows("key_1", us(instant))):
        ends = [resets_at_us(scope) for scope in windows]
        assert ends == [us(tomorrow), us(next_month)]


@given(st.integers(0, us("2200-01-01")))
def test_windows_follow_each_other_without_a_gap(now_us):
    """An instant lies before the end of its window; the end itself lies in another one."""
    for number, scope in enumerate(service_windows(now_us)):
        end_us = resets_at_us(scope)
        assert end_us is not None
        assert now_us < end_us
        assert service_windows(end_us - 1)[number] == scope
        assert service_windows(end_us)[number].id > scope.id


@pytest.mark.parametrize("scope", [task_scope("t"), session_scope("acme", "2026-11-22"), SERVICE])
def test_what_has_no_window_never_resets(scope):
    """Tasks, sessions and the service's whole budget do not come back by themselves."""
    assert resets_at_us(scope) is None


def test_strangers_sessions_of_one_name_are_two():
    """A session's budget belongs to its owner."""
    assert session_scope("acme", "s") != session_scope("zeta", "s")


class TestPayer:
    """Whose budgets a call draws on."""

    NOW = us("2026-11-22T12:00:00")

    def test_everything_in_its_fixed_order(self):
        """The task, whom it is a sub-task of, session, key, service: the hottest come last."""
        payer = Payer("t", "s", "acme", ("parent", "grandparent"), "key_1")
        assert payer.scopes(self.NOW) == (
            Scope("task", "t"),
            Scope("task", "parent"),
            Scope("task", "grandparent"),
            Scope("session", "acme/s"),
            Scope("key_day", "key_1/2026-11-22"),
            Scope("key_month", "key_1/2026-11"),
            Scope("service_day", "2026-11-22"),
            Scope("service_month", "2026-11"),
            Scope("service", "service"),
        )

    def test_nothing_of_a_key_where_there_is_none(self):
        """While keys are off only task, session and service pay."""
        kinds = [scope.kind for scope in Payer("t", "s", "local").scopes(self.NOW)]
        assert kinds == ["task", "session", "service_day", "service_month", "service"]

    def test_every_kind_is_known(self):
        """KINDS lists them all, in the order in which they are taken."""
        payer = Payer("t", "s", "acme", (), "key_1")
        assert tuple(scope.kind for scope in payer.scopes(self.NOW)) == KINDS
