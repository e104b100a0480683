"""The queries of idempotency keys."""

from tests.conformance.uses import changes, finds

KEY = {"owner": "local", "key": "k"}
ANSWER = {"digest": "d", "task_id": "t", "status": 202, "headers": "{}", "body": "{}"}
ANSWERS_STORY = (
    finds("read_answer", 0, None, **KEY, expired_us=0),
    changes("remember_answer", 1, **KEY, **ANSWER, now_us=10, expired_us=0),
    changes("remember_answer", 0, **KEY, **ANSWER, now_us=11, expired_us=9),
    changes("remember_answer", 1, **{**KEY, "owner": "o"}, **ANSWER, now_us=12, expired_us=9),
    finds("read_answer", 1, {"digest": "d", "status": 202, "body": "{}"}, **KEY, expired_us=9),
    finds("read_answer", 0, None, **KEY, expired_us=10),
    changes("amend_answer", 0, **KEY, **{**ANSWER, "digest": "e"}),
    changes("amend_answer", 0, **KEY, **{**ANSWER, "task_id": "u"}),
    changes("amend_answer", 1, **KEY, **{**ANSWER, "status": 200, "body": "{1}"}),
    finds("read_answer", 1, {"digest": "d", "status": 200, "body": "{1}"}, **KEY, expired_us=9),
    changes("erase_answers", 2, task_id="t"),
    changes("amend_answer", 0, **KEY, **ANSWER),
    finds("read_answer", 1, {"body": None, "task_id": "t"}, **KEY, expired_us=9),
    changes("remember_answer", 1, **KEY, **{**ANSWER, "digest": "e"}, now_us=20, expired_us=10),
    finds("read_answer", 1, {"digest": "e", "body": "{}"}, **KEY, expired_us=10),
    changes("forget_answers", 0, expired_us=11, limit=9),
    changes("forget_answers", 1, expired_us=30, limit=1),
    finds("read_answer", 0, None, **{**KEY, "owner": "o"}, expired_us=0),
    changes("forget_answers", 1, expired_us=30, limit=9),
)
