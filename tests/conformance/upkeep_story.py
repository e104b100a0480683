"""What an operator asks, and what becomes of a task that has ended: its content can be erased."""

from app.store.queries import load_migrations
from tests.conformance.uses import Use, changes, finds

PAGE: dict[str, object] = {"after": "t", "upto": "t", "limit": 5}
UPKEEP_STORY: tuple[Use, ...] = (
    finds("count_tasks", 1, {"task_count": 1, "unfinished_count": 0}),
    finds("schema_version", 1, {"version": len(load_migrations())}),
    finds("checkup_tasks", 1, {"id": "t", "has_account": 1, "stuck": 0}, after="", limit=5),
    finds("checkup_tasks", 0, None, after="t", limit=5),
    finds(
        "checkup_journals",
        1,
        {"subject": "t", "event_count": 1, "body_count": 1, "turn": 0},
        **{**PAGE, "after": ""},
    ),
    finds("checkup_journals", 0, None, **PAGE),
    finds("checkup_last_subject", 1, {"subject": "t"}),
    finds("checkup_reservations", 0, None, after="", upto="t"),
    finds("checkup_lines", 1, {"task_id": "late"}, **{**PAGE, "after": ""}),
    changes("erase_task", 1, id="t", spec="{}", error_json=None, now_us=60),
    changes("erase_task", 0, id="t", spec="{}", error_json=None, now_us=60),
    changes("erase_bodies", 1, subject="t"),
    changes("erase_bodies", 0, subject="t"),
    changes("erase_data", 1, subject="t", seq=1, data="[]"),
    finds("read_events", 1, {"data": "[]", "body": None}, subject="t", after=0, limit=5),
)
