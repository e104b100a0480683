"""The queries that say whose turn it is, told on tasks of their own."""

from tests.conformance.uses import Use, changes, finds


def task(name: str, now_us: int, **given: object) -> Use:
    """A new task."""
    params: dict[str, object] = {
        "id": name,
        "owner": "local",
        "session_id": "s",
        "spec": "{}",
        "priority": 0,
        "now_us": now_us,
        "due_at_us": now_us,
        "rank_us": now_us,
        "held_by": None,
        "deadline_at_us": now_us + 100,
        "parent_id": "p",
        "key_id": None,
    }
    return Use("insert_task", {**params, **given}, 1)


def crowd(name: str, now_us: int, **given: object) -> Use:
    """A task of a session and a key that have others."""
    return task(name, now_us, **{"owner": "o", "session_id": "crowd", "key_id": "k2", **given})


SESSION = {"owner": "o", "session_id": "crowd"}
PAGE = {"owner": "o", "before_us": 2**62, "before_id": "", "limit": 10}
IN_CROWD = {"session_id": "crowd", "outcome": "deadline"}
RETRY = {
    "id": "urgent",
    "owner": "o",
    "spec": "{}",
    "now_us": 4_000,
    "rank_us": 4_000,
    "deadline_at_us": 5_000,
}
AGAIN = {"id": "urgent", "worker": "w", "now_us": 4_000}
TURNS_STORY = (
    crowd("later", 1_000, due_at_us=2_000, rank_us=2_000, held_by="time"),
    finds("queue_state", 1, {"depth": 1, "oldest_at_us": None}),
    finds("claimable_tasks", 0, None, limit=9),
    finds("waiting_task", 0, None, id="later", now_us=1_999),
    finds("waiting_task", 1, {"id": "later", "key_id": "k2"}, id="later", now_us=2_000),
    finds("task_place", 1, {"status": "queued", "run_count": 0, "held_by": "time"}, id="later"),
    finds("count_waiting", 1, {"waiting_count": 1}, limit=1),
    finds("count_paused", 1, {"paused_count": 0}, limit=9),
    finds("any_due", 0, None, now_us=1_999),
    finds("any_due", 1, {}, now_us=2_000),
    changes("release_due", 0, now_us=1_999, limit=9),
    changes("release_due", 1, now_us=2_000, limit=9),
    crowd("urgent", 1_500, rank_us=1_500),
    crowd("third", 1_600, rank_us=2_600),
    finds("claimable_tasks", 2, {"id": "urgent", "session_id": "crowd", "owner": "o"}, limit=2),
    finds("running_of_session", 1, {"running_count": 0}, **SESSION),
    finds("claim_task", 1, {"id": "urgent", "run_count": 1}, id="urgent", worker="w", now_us=2_000),
    finds("claim_task", 0, None, id="urgent", worker="w", now_us=2_000),
    finds("running_of_session", 1, {"running_count": 1}, **SESSION),
    finds("running_of_key", 1, {"running_count": 1}, key_id="k2"),
    finds("running_of_key", 1, {"running_count": 0}, key_id="none"),
    finds("any_held", 0, None),
    changes("hold_task", 0, id="urgent", held_by="session"),
    changes("hold_task", 1, id="later", held_by="session"),
    changes("hold_task", 1, id="third", held_by="key"),
    finds("any_held", 1, {}),
    finds("claimable_tasks", 0, None, limit=9),
    finds("held_by_sessions", 0, None, most=1, limit=9),
    finds("held_by_sessions", 1, {"session_id": "crowd", "room": 1}, most=2, limit=9),
    finds("held_by_keys", 0, None, most=1, limit=9),
    finds("held_by_keys", 1, {"key_id": "k2", "room": 2}, most=3, limit=9),
    changes("release_of_session", 0, owner="other", session_id="crowd", limit=9),
    changes("release_of_session", 1, **SESSION, limit=9),
    changes("release_of_key", 0, key_id="none", limit=9),
    changes("release_of_key", 1, key_id="k2", limit=9),
    changes("hold_task", 1, id="later", held_by="session"),
    changes("hold_task", 1, id="third", held_by="key"),
    changes("release_next", 0, id="none"),
    changes("release_next", 2, id="urgent"),
    finds("claimable_tasks", 2, {"id": "later"}, limit=9),
    finds("any_behind", 0, None),
    changes("fall_behind_in_session", 1, id="x", rank_us=2_500, **SESSION),
    finds("any_behind", 1, {}),
    finds("next_of_session", 0, None, now_us=3_000, **SESSION),
    changes("fall_behind_in_key", 1, id="x", rank_us=1_000, key_id="k2"),
    finds("next_of_key", 1, {"id": "later"}, now_us=3_000, key_id="k2"),
    finds("next_of_key", 0, None, now_us=3_000, key_id="k2"),
    changes("fall_behind_in_session", 1, id="x", rank_us=0, **SESSION),
    finds("next_of_session", 1, {"id": "third"}, now_us=3_000, **SESSION),
    finds("claimable_tasks", 2, {"id": "third", "turn_called": -1}, limit=9),
    finds(
        "finish_task",
        1,
        {"due_at_us": 1_500},
        id="urgent",
        run=1,
        status="failed",
        outcome="deadline",
        now_us=3_000,
        result_json='"x"',
        result_partial=1,
        error_json="{}",
    ),
    changes(
        "open_account", 1, scope="task", id="urgent", owner="o", limit_nano=9, warn_at_nano=None
    ),
    finds("list_tasks_by_outcome", 1, {"id": "urgent"}, **PAGE, outcome="deadline"),
    finds("list_tasks_by_outcome", 0, None, **PAGE, outcome="refused"),
    finds("list_tasks_by_session_and_outcome", 1, {"id": "urgent"}, **PAGE, **IN_CROWD),
    finds("list_tasks_by_session_and_outcome", 0, None, **PAGE, **{**IN_CROWD, "session_id": "x"}),
    changes("retry_task", 0, **{**RETRY, "owner": "stranger"}),
    changes("retry_task", 1, **RETRY),
    changes("retry_task", 0, **RETRY),
    finds("list_tasks_by_outcome", 0, None, **PAGE, outcome="deadline"),
    finds("claim_task", 1, {"run_count": 2, "deadline_at_us": 5_000, "error_json": None}, **AGAIN),
    finds("schema_version", 1, {}),
    finds("any_limited_key", 0, None),
    finds("concurrency_of_key", 0, None, id="k"),
    changes("set_key_concurrency", 1, id="k", concurrency_limit=2),
    changes("set_key_concurrency", 0, id="other", concurrency_limit=2),
    finds("any_limited_key", 1, {}),
    finds("concurrency_of_key", 1, {"concurrency_limit": 2}, id="k"),
)
