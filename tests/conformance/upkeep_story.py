"""What becomes of a task that has ended: its content can be erased."""

from app.store.queries import load_migrations
from tests.conformance.uses import Use, changes, finds

UPKEEP_STORY: tuple[Use, ...] = (
    finds("count_tasks", 1, {"task_count": 1, "unfinished_count": 0}),
    finds("schema_version", 1, {"version": len(load_migrations())}),
    changes("erase_task", 1, id="t", spec="{}", error_json=None, now_us=60),
    changes("erase_task", 0, id="t", spec="{}", error_json=None, now_us=60),
    changes("erase_bodies", 1, subject="t"),
    changes("erase_bodies", 0, subject="t"),
    changes("erase_data", 1, subject="t", seq=1, data="[]"),
    finds("read_events", 1, {"data": "[]", "body": None}, subject="t", after=0, limit=5),
)
