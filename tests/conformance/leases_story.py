"""Who holds tasks, and what becomes of a call that was taken for lost."""

from tests.conformance.uses import changes, finds

LINE = {
    "kind": None,
    "owner": "local",
    "session_id": "s",
    "task_id": "t",
    "run": 1,
    "step": 1,
    "attempt": 1,
    "model": "m",
    "price_row": "p",
    "key_id": "",
    "agent": "",
    "bound": "proved",
    "usage_json": None,
    "scopes": '[["task","t"]]',
    "surplus_nano": 0,
    "input_tokens": 3,
    "output_tokens": 2,
    "cache_read_tokens": 0,
    "cache_write_5m_tokens": 0,
    "cache_write_1h_tokens": 0,
    "cache_saved_nano": 0,
    "web_searches": 0,
    "at_us": 7,
}

WORKER = {"id": "w", "slots": 3, "now_us": 5, "expires_at_us": 20}
LEASES_STORY = (
    finds("orphaned_tasks", 1, {"id": "t", "status": "running", "crash_count": 0}, limit=9),
    changes("add_worker", 1, **WORKER),
    finds("orphaned_tasks", 0, None, limit=9),
    finds("worker_holds", 1, {}, id="w", now_us=19),
    finds("worker_holds", 0, None, id="w", now_us=20),
    changes("renew_worker", 1, id="w", expires_at_us=30),
    changes("renew_worker", 0, id="v", expires_at_us=30),
    finds("list_workers", 1, {"id": "w", "expires_at_us": 30, "beat_count": 1, "slots": 3}),
    finds(
        "checkup_slots",
        1,
        {"worker_count": 1, "slot_count": 3, "free_count": 2},
        now_us=29,
        before_us=5,
    ),
    finds("checkup_slots", 1, {"worker_count": 0, "free_count": None}, now_us=30, before_us=5),
    finds("checkup_slots", 1, {"worker_count": 0}, now_us=29, before_us=4),
    changes("remove_silent_worker", 0, id="w", beat_count=0),
    changes("remove_silent_worker", 1, id="w", beat_count=1),
    changes("remove_worker", 0, id="w"),
    changes("remove_workers", 0),
)

LATE: dict[str, object] = {"task_id": "late", "step": 1, "attempt": 2, "run": 3}
LOST = {
    **LINE,
    **LATE,
    "owner": "late",
    "entry": "settlement",
    "ended": 1,
    "kind": "presumed",
    "amount_nano": 90,
    "at_us": 99,
}
CONFIRMED = {
    **LATE,
    "now_us": 8,
    "amount_nano": 70,
    "surplus_nano": 0,
    "price_row": "p2",
    "input_tokens": 3,
    "output_tokens": 2,
    "cache_read_tokens": 0,
    "cache_write_5m_tokens": 0,
    "cache_write_1h_tokens": 0,
    "cache_saved_nano": 0,
    "web_searches": 0,
    "usage_json": None,
}
LATE_STORY = (
    finds("presumed_line", 0, None, **LATE),
    changes("confirm_line", 0, **CONFIRMED),
    changes("add_line", 1, **LOST),
    finds("presumed_line", 0, None, **{**LATE, "run": 2}),
    finds("presumed_line", 1, {"amount_nano": 90}, **LATE),
    changes("confirm_line", 0, **{**CONFIRMED, "run": 2}),
    changes("confirm_line", 1, **CONFIRMED),
    changes("confirm_line", 0, **CONFIRMED),
    finds("presumed_line", 0, None, **LATE),
    finds(
        "ledger_of_task",
        1,
        {"kind": "confirmed", "amount_nano": 70, "presumed_nano": 90, "confirmed_at_us": 8},
        task_id="late",
        owner="late",
    ),
)
