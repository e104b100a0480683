"""What is measured: the tasks, and how many at a time."""

import json

CONCURRENCY = 100
"""Tasks in flight, for every contender alike."""
CROWD = 1_000
"""Tasks in flight in W3, where the model takes its time."""
MODEL = "claude-haiku-5-5"
MAX_TOKENS = 2_048
TEXT = "Explain supervised and unsupervised learning."
WORKLOADS = {"w1": "one model call", "w2": "five steps: four tool rounds, then the answer"}
STEPS = {"w1": 1, "w2": 5}


def submission(what: str) -> bytes:
    """The body of POST /tasks."""
    task: dict[str, object] = {"task": TEXT, "complexity": "simple"}
    if what == "w2":
        task["tools"] = ["calculator"]
    return json.dumps(task).encode()
