"""Every named query, run at least once on every adapter, with what it must change or find."""

from collections.abc import Callable
from typing import Any

import pytest

from app.store.port import Tx
from app.store.queries import load_queries
from tests.conformance.answers_story import ANSWERS_STORY
from tests.conformance.batches_story import BATCHES_STORY
from tests.conformance.leases_story import LATE_STORY, LEASES_STORY, LINE
from tests.conformance.turns_story import TURNS_STORY, task
from tests.conformance.upkeep_story import UPKEEP_STORY
from tests.conformance.uses import Use, changes, finds

TASK = {"scope": "task", "id": "t"}
PAUSE: dict[str, object] = {
    "id": "t",
    "run": 2,
    "paused_json": "{}",
    "now_us": 50,
    "available_at_us": 100,
    "blocked_scope": "task",
    "blocked_id": "t",
    "blocked_needed_nano": 50,
}
SUM: dict[str, object] = {
    "owner": "local",
    "session_id": "s",
    "model": "m",
    "calls": 1,
    "spent_nano": 45,
    "confirmed_nano": 45,
    "estimated_nano": 0,
    "presumed_nano": 0,
    "input_tokens": 3,
    "output_tokens": 2,
    "cache_read_tokens": 0,
    "cache_write_5m_tokens": 0,
    "cache_write_1h_tokens": 0,
    "cache_saved_nano": 0,
}
PAGE = {"owner": "local", "before_us": 2**62, "before_id": "", "limit": 10}

FIRST_ACCOUNTS: dict[str, object] = {"scope": "", "id": "", "limit": 5}
LEDGER_PAGE = {
    "owner": "local",
    "session_id": "s",
    "at_us": -1,
    "task_id": "",
    "step": 0,
    "attempt": 0,
    "ended": 0,
}


def page(query: str, count: int, **more: object) -> Use:
    """A use that lists tasks."""
    return finds(query, count, {"id": "t", "spent_nano": 0} if count else None, **PAGE, **more)


def conclusion(name: str, status: str, outcome: str) -> dict[str, object]:
    """The parameters of a task's end."""
    return {
        "id": name,
        "run": 0,
        "status": status,
        "outcome": outcome,
        "now_us": 50,
        "result_json": None,
        "result_partial": 0,
        "error_json": None,
    }


PERIOD = {"from_us": 7, "to_us": 8}
LINE_KEY = {"task_id": "", "step": 0, "attempt": 0}
USAGE_STORY = (
    *(
        finds(
            f"usage_by_{view}",
            1,
            {"name": name, "calls": 1, "spent_nano": 45, "confirmed_nano": 45, "input_tokens": 3},
            owner="local",
            limit=9,
            **PERIOD,
        )
        for view, name in (("model", "m"), ("session", "s"), ("key", ""), ("agent", ""), ("day", 0))
    ),
    finds("usage_by_day", 0, None, owner="stranger", limit=9, **PERIOD),
    finds("usage_by_day", 0, None, owner="local", limit=9, from_us=0, to_us=7),
    finds("usage_by_day", 0, None, owner="local", limit=9, from_us=8, to_us=9),
    finds(
        "settlements_page",
        1,
        {"entry": "settlement", "step": 1, "reserved_at_us": 7},
        **PERIOD,
        **LINE_KEY,
        limit=9,
    ),
    finds(
        "settlements_page",
        0,
        None,
        **PERIOD,
        **{**LINE_KEY, "task_id": "t", "step": 1, "attempt": 1},
        limit=9,
    ),
    finds(
        "append_event",
        1,
        {"seq": 2},
        subject="t",
        type="model_answered",
        at_us=1,
        run=0,
        data='{"step":1}',
        body=None,
    ),
)
KEY = {"id": "k", "owner": "local", "day_limit_nano": 7, "month_limit_nano": None}
KEYS_STORY = (
    finds("any_key", 0, None),
    finds("list_keys", 0, None),
    changes("add_key", 1, **KEY, name="n", prefix="bursar_x", hash="h", now_us=3),
    finds("any_key", 1, {}),
    finds("find_key", 1, {"id": "k", "owner": "local", "enabled": 1}, hash="h"),
    finds("find_key", 0, None, hash="other"),
    finds("read_key", 1, {"prefix": "bursar_x", "revoked_at_us": None}, id="k"),
    finds("read_key", 0, None, id="other"),
    changes("set_key_limits", 1, id="k", day_limit_nano=None, month_limit_nano=9),
    finds("read_key_limits", 1, {"day_limit_nano": None, "month_limit_nano": 9}, id="k"),
    changes("revoke_key", 1, id="k", now_us=4),
    changes("revoke_key", 0, id="k", now_us=5),
    finds("find_key", 1, {"enabled": 0}, hash="h"),
    finds("any_key", 1, {}),
    finds("list_keys", 1, {"id": "k", "revoked_at_us": 4}),
)


def less(value: object) -> object:
    """A number the other way round."""
    return -value if isinstance(value, int) else value


STORY = (
    finds("ping", 1, {"alive": 1}),
    changes("probe_write", 1),
    changes("open_session", 1, owner="local", id="s", now_us=1),
    changes("open_session", 0, owner="local", id="s", now_us=2),
    changes("open_account", 1, **TASK, owner="local", limit_nano=100, warn_at_nano=30),
    changes("open_account", 0, **TASK, owner="local", limit_nano=200, warn_at_nano=1),
    changes(
        "open_account",
        1,
        scope="session",
        id="local/s",
        owner="local",
        limit_nano=1_000,
        warn_at_nano=None,
    ),
    changes("set_limit", 1, **TASK, limit_nano=90, warn_at_nano=30),
    finds("read_account", 1, {"limit_nano": 90, "spent_nano": 0, "surplus_nano": 0}, **TASK),
    finds("read_session", 1, {"limit_nano": 1_000, "task_count": 0}, owner="local", id="s"),
    changes("count_task", 1, owner="local", session_id="s"),
    changes("count_task", 0, owner="stranger", session_id="s"),
    finds("read_session", 1, {"task_count": 1}, owner="local", id="s"),
    task("t", 5),
    finds("checkup_next_task", 1, {"id": "t", "available_at_us": 5}, before_us=5),
    finds("checkup_next_task", 0, None, before_us=4),
    finds("read_task", 1, {"status": "queued", "limit_nano": 90}, owner="local", id="t"),
    finds("read_task", 0, None, owner="stranger", id="t"),
    page("list_tasks", 1),
    page("list_tasks_by_status", 1, status="queued"),
    page("list_tasks_by_status", 0, status="running"),
    page("list_tasks_by_session", 1, session_id="s"),
    page("list_tasks_by_session", 0, session_id="other"),
    page("list_tasks_by_session_and_status", 1, session_id="s", status="queued"),
    page("list_tasks_by_session_and_status", 0, session_id="s", status="failed"),
    finds("count_subtasks", 1, {"subtask_count": 1}, parent_id="p", owner="local"),
    finds("count_subtasks", 1, {"subtask_count": 0}, parent_id="p", owner="stranger"),
    finds("paused_tasks", 0, None),
    finds("waiting_tasks", 1, {"id": "t", "available_at_us": 5}),
    finds("queue_state", 1, {"priority": 0, "depth": 1, "oldest_at_us": 5}),
    finds("expired_tasks", 0, None, now_us=104, limit=9),
    finds("expired_tasks", 1, {"id": "t"}, now_us=105, limit=9),
    finds("claim_tasks", 1, {"id": "t", "run_count": 1}, worker="w", now_us=5, limit=9),
    finds("lease_holds", 1, {}, task_id="t", run=1),
    finds("lease_holds", 0, None, task_id="t", run=2),
    *LEASES_STORY,
    changes("requeue_task", 0, id="t", run=2, available_at_us=30, now_us=20, crashed=0),
    changes("requeue_task", 1, id="t", run=1, available_at_us=30, now_us=20, crashed=1),
    finds("claim_tasks", 0, None, worker="w", now_us=20, limit=9),
    changes("make_available", 1, id="t", now_us=20),
    changes("wake_parked", 0, now_us=20),
    changes("wake_parked", 1, now_us=19),
    changes("wake_from_future", 0, now_us=18),
    changes("make_available", 0, id="t", now_us=20),
    finds("claim_tasks", 1, {"id": "t", "run_count": 2}, worker="w", now_us=20, limit=9),
    changes("record_step", 0, id="t", run=1, step=9),
    changes("record_step", 1, id="t", run=2, step=3),
    changes("hold", 0, **TASK, amount_nano=91),
    changes("hold", 1, **TASK, amount_nano=60),
    finds("reserved_now", 1, {"reserved_nano": 60}),
    changes("add_reservation", 1, **{**LINE, "amount_nano": 60}),
    finds("open_reservation", 1, {"amount_nano": 60}, task_id="t", step=1, attempt=1),
    finds("open_reservations_of_task", 1, {"step": 1, "attempt": 1}, task_id="t"),
    finds(
        "book",
        1,
        {"spent_nano": 45, "limit_nano": 90, "warn_at_nano": 30},
        **TASK,
        held_nano=60,
        spent_nano=40,
        surplus_nano=5,
    ),
    changes("warned", 1, **TASK),
    finds("accounts_page", 2, {"scope": "session", "spent_nano": 0}, **FIRST_ACCOUNTS),
    finds(
        "accounts_page", 1, {"scope": "task"}, **{**FIRST_ACCOUNTS, "scope": "session", "id": "x"}
    ),
    finds("end_of_lines_page", 1, {"task_id": "t"}, after="", limit=5),
    finds("end_of_lines_page", 1, {"task_id": None}, after="t", limit=5),
    finds(
        "sums_by_scopes",
        1,
        {"spent_nano": 0, "reserved_nano": 60, "line_count": 1},
        after="",
        upto="t",
    ),
    finds("sums_by_scopes", 0, None, after="t", upto="z"),
    finds("broken_lines", 0, None, after="", upto="t", limit=5),
    finds("broken_amounts", 0, None, limit=5),
    changes(
        "add_line",
        1,
        **{
            **LINE,
            "entry": "settlement",
            "ended": 1,
            "kind": "confirmed",
            "amount_nano": 40,
            "surplus_nano": 5,
        },
    ),
    finds("open_reservation", 0, None, task_id="t", step=1, attempt=1),
    finds("open_reservations_of_task", 0, None, task_id="t"),
    finds(
        "usage_of_task",
        1,
        {"calls": 1, "spent_nano": 45, "confirmed_nano": 45, "presumed_nano": 0},
        task_id="t",
        owner="local",
    ),
    finds("usage_of_task", 1, {"calls": 0, "spent_nano": 0}, task_id="t", owner="stranger"),
    finds("totals_of_session", 0, None, owner="local", session_id="s"),
    finds(
        "session_usage_drifts",
        1,
        {"session_id": "s", "model": "m", "calls": -1, "spent_nano": -45, "input_tokens": -3},
    ),
    changes("count_in_session", 1, **SUM),
    finds("session_usage_drifts", 0, None),
    changes("count_in_session", 1, **SUM),
    finds("session_usage_drifts", 1, {"calls": 1, "confirmed_nano": 45, "presumed_nano": 0}),
    changes("count_in_session", 1, **{name: less(value) for name, value in SUM.items()}),
    finds(
        "totals_of_session",
        1,
        {"model": "m", "calls": 1, "spent_nano": 45, "input_tokens": 3},
        owner="local",
        session_id="s",
    ),
    finds("totals_of_session", 0, None, owner="x", session_id="s"),
    finds(
        "usage_of_session",
        1,
        {"task_id": "t", "created_at_us": 5, "calls": 1, "spent_nano": 45, "input_tokens": 3},
        **PAGE,
        session_id="s",
    ),
    finds("usage_of_session", 0, None, **{**PAGE, "owner": "stranger"}, session_id="s"),
    finds("usage_of_session", 0, None, **{**PAGE, "before_us": 5}, session_id="s"),
    finds(
        "sums_by_scopes",
        1,
        {"spent_nano": 40, "reserved_nano": 0, "surplus_nano": 5, "line_count": 2},
        after="",
        upto="t",
    ),
    finds("ledger_of_task", 2, {"entry": "reservation", "step": 1}, task_id="t", owner="local"),
    finds("ledger_of_task", 0, None, task_id="t", owner="stranger"),
    finds("ledger_of_session", 2, {"entry": "reservation"}, **LEDGER_PAGE, limit=9),
    finds("ledger_of_session", 1, {"entry": "reservation"}, **LEDGER_PAGE, limit=1),
    finds(
        "ledger_of_session",
        1,
        {"entry": "settlement"},
        **{**LEDGER_PAGE, "at_us": 7, "task_id": "t", "step": 1, "attempt": 1},
        limit=9,
    ),
    finds("lease_may_start", 1, {}, task_id="t", run=2),
    changes("pause_task", 0, **{**PAUSE, "run": 1}),
    changes("pause_task", 1, **PAUSE),
    changes("record_step", 0, id="t", run=2, step=9),
    finds("paused_tasks", 1, {"id": "t"}),
    finds("resumable_tasks", 0, None, now_us=60, limit=9),
    changes("set_limit", 1, **TASK, limit_nano=95, warn_at_nano=70),
    finds("resumable_tasks", 1, {"id": "t"}, now_us=60, limit=9),
    finds("resume_task", 1, {"paused_at_us": 50, "run_count": 2}, id="t", now_us=60),
    finds("resume_task", 0, None, id="t", now_us=60),
    finds("resumable_tasks", 0, None, now_us=60, limit=9),
    finds(
        "claim_tasks", 1, {"run_count": 3, "deadline_at_us": 115}, worker="w", now_us=60, limit=9
    ),
    changes("request_cancel", 0, id="t", owner="stranger"),
    changes("request_cancel", 1, id="t", owner="local"),
    finds("cancelling_tasks", 1, {"id": "t"}, worker="w"),
    finds("cancelling_tasks", 0, None, worker="v"),
    finds("lease_holds", 1, {}, task_id="t", run=3),
    finds("lease_may_start", 0, None, task_id="t", run=3),
    finds("finish_task", 0, None, **conclusion("t", "failed", "deadline")),
    finds(
        "finish_task", 1, {"step_count": 3}, **{**conclusion("t", "failed", "deadline"), "run": 3}
    ),
    finds("cost_of_task", 1, {"cost_nano": 45}, task_id="t"),
    finds("ended_tasks", 1, {"spec": "{}", "spent_nano": 45}, owner="local", limit=9),
    finds("ended_tasks", 0, None, owner="stranger", limit=9),
    finds("finish_task", 0, None, **{**conclusion("t", "succeeded", "answered"), "run": 3}),
    finds(
        "append_event",
        1,
        {"seq": 1},
        subject="t",
        type="x",
        at_us=1,
        run=0,
        data="{}",
        body=b"\x00\xff",
    ),
    finds("read_events", 1, {"seq": 1, "body": b"\x00\xff"}, subject="t", after=0, limit=5),
    finds("read_events", 0, None, subject="t", after=1, limit=5),
    *LATE_STORY,
    *UPKEEP_STORY,
    *USAGE_STORY,
    *KEYS_STORY,
    *TURNS_STORY,
    *ANSWERS_STORY,
    *BATCHES_STORY,
)


def carry_out(tx: Tx, use: Use) -> None:
    """Run one use and check it."""
    if use.query not in READING:
        assert tx.run(use.query, **use.params) == use.count, use
        return
    rows = tx.all(use.query, **use.params)
    assert len(rows) == use.count, use
    for column, value in (use.first or {}).items():
        assert rows[0][column] == value, (use, column)


READING = {use.query for use in STORY if use.first is not None}


async def test_every_query_does_what_its_name_says(store):
    """The queries, told as the story of one task."""

    def op(tx: Tx) -> None:
        for use in STORY:
            carry_out(tx, use)

    await store.write(op)


def test_the_story_leaves_no_query_out():
    """A query that is added to `sql/` needs its place in the story."""
    assert {use.query for use in STORY} == set(load_queries())


def spent_on(name: str) -> Callable[[Tx], int]:
    """What an account has spent, as the journal's readers see it."""

    def op(tx: Tx) -> int:
        row = tx.one("read_account", scope="task", id=name)
        assert row is not None
        return int(row["spent_nano"])

    return op


@pytest.mark.parametrize("amount", [2**53, 2**62, 10**15 - 1])
async def test_large_amounts_stay_exact(store, amount):
    """Nano-dollars are kept to the last digit, far above what a float could."""

    def op(tx: Tx) -> None:
        tx.run("open_account", **TASK, owner="local", limit_nano=amount, warn_at_nano=None)
        assert tx.run("hold", **TASK, amount_nano=amount) == 1
        row: Any = tx.one("book", **TASK, held_nano=amount, spent_nano=amount, surplus_nano=0)
        assert row["spent_nano"] == amount

    await store.write(op)
    assert await store.read(spent_on("t")) == amount
