"""What an operator asks, and what becomes of a task that has ended: its content can be erased."""

from app.store.queries import load_migrations
from tests.conformance.uses import Use, changes, finds

PRUNED: dict[str, object] = {"owner": "local", "session_id": "s", "id": "t"}
CANDIDATES: dict[str, object] = {"owner": "local", "after_us": -1, "after_id": "", "limit": 5}
PAGE: dict[str, object] = {"after": "t", "upto": "t", "limit": 5}
CLAIM: dict[str, object] = {
    "type": "task_claimed",
    "at_us": 9,
    "run": 2,
    "data": "[]",
    "body": None,
}
UPKEEP_STORY: tuple[Use, ...] = (
    finds("count_tasks", 1, {"task_count": 1, "unfinished_count": 0}),
    finds("schema_version", 1, {"version": len(load_migrations())}),
    finds("checkup_tasks", 1, {"id": "t", "has_account": 1, "stuck": 0}, after="", limit=5),
    finds("checkup_tasks", 0, None, after="t", limit=5),
    finds(
        "checkup_journals",
        1,
        {"subject": "t", "event_count": 1, "body_count": 1, "turn": 0, "last_run": 0},
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
    finds("next_owner", 1, {"owner": "local"}, after=""),
    finds("next_owner", 1, {"owner": None}, after="local"),
    finds("prune_candidates", 1, {"id": "t", "due": 1}, **CANDIDATES, before_us=99),
    finds("prune_candidates", 1, {"id": "t", "due": 0}, **CANDIDATES, before_us=50),
    finds("add_pruned", 1, {"events_left": 1}, **PRUNED, now_us=70),
    finds("half_pruned", 1, {**PRUNED, "events_left": 1}, limit=5),
    finds("half_pruned_task", 1, {"events_left": 1}, id="t"),
    changes("set_events_left", 1, **PRUNED, left=0),
    finds("half_pruned", 0, None, limit=5),
    finds("half_pruned_task", 0, None, id="t"),
    finds("checkup_answers", 0, None, limit=5),
    changes("prune_answers", 0, task_id="none"),
    finds("prune_task", 0, None, id="t", before_us=50),
    changes("prune_events", 0, subject="t", left=1),
    finds("append_event", 1, {"seq": 1}, subject="claims", **CLAIM),
    finds("checkup_claim", 1, {"data": "[]"}, subject="claims", run=2),
    finds("checkup_claim", 0, None, subject="claims", run=1),
    finds("checkup_moves", 1, {}, subject="claims", since_us=8),
    finds("checkup_moves", 0, None, subject="claims", since_us=9),
)
