"""Recorded errors of the real API, and what the service does about each."""

import json
from collections import Counter
from pathlib import Path

import pytest

from app.domain.task import Outcome
from app.llm.failures import status_failure
from app.llm.retry import Again, GiveUp, RetryLimits, Wait, decide, known_unbilled

pytestmark = pytest.mark.corpus


def test_recorded_errors_are_retried_or_given_up_as_they_should_be(corpus: Path) -> None:
    """A 429 without `retry-after` is tried again; 400, 401 and 404 never; none of them costs anything."""
    decided = Counter[tuple[int, str]]()
    for file in sorted((corpus / "recordings").glob("*.jsonl")):
        for line in file.read_text().splitlines():
            response = json.loads(line)["response"]
            status = response["status"]
            if status is None or status < 400:
                continue
            body = response.get("body", response.get("text"))
            raw = body.encode() if isinstance(body, str) else json.dumps(body).encode()
            failure = status_failure(status, response.get("headers") or {}, raw, now_us=0)
            decision = decide(failure, attempt=1, elapsed_s=0, left_s=600, limits=RetryLimits())
            assert known_unbilled(failure), line[:80]
            match decision:
                case Again(wait_s=wait_s):
                    assert 0 <= wait_s <= 0.5
                    decided[status, "again"] += 1
                case Wait():
                    pytest.fail("nothing is known of an outage")
                case GiveUp(outcome=outcome):
                    assert outcome is Outcome.UPSTREAM_REJECTED
                    decided[status, "given up"] += 1
    assert decided == {
        (400, "given up"): 13,
        (401, "given up"): 10,
        (404, "given up"): 16,
        (429, "again"): 4,
    }
