"""A configured key appears in no view, even when the upstream repeats it."""

from pathlib import Path

from app.domain.clock import SystemClock
from app.simulator.core import Simulator
from tests.support.loglines import LineChecker
from tests.support.service import Running, started_against

CANARY = "canary-7f3a9c51-not-a-real-key"
PLAIN = f"The key {CANARY} is not allowed here (Authorization: Bearer {CANARY})."


def _on_disk(folder: Path) -> bytes:
    found = b"".join(file.read_bytes() for file in folder.rglob("*") if file.is_file())
    assert b"is not allowed here" in found
    return found


async def _views(bursar: Running, task_id: str) -> str:
    paths = [
        f"/tasks/{task_id}",
        f"/tasks/{task_id}/events",
        "/tasks",
        "/metrics",
        "/healthz",
        "/readyz",
        "/openapi.json",
        "/tasks/none",
    ]
    task = (await bursar.client.get(paths[0])).json()
    paths += [task["links"]["session"], task["links"]["usage"]]
    return "\n".join([(await bursar.client.get(path)).text for path in paths])


async def test_an_upstream_that_repeats_it(tmp_path: Path, log_lines: LineChecker) -> None:
    """Error messages of the upstream lose the key before anybody sees or stores them."""
    simulator = Simulator(SystemClock())
    async with started_against(simulator, tmp_path, anthropic_api_key=CANARY) as bursar:
        bursar.script(
            {"kind": "overloaded", "message": PLAIN},
            {"kind": "server_error", "message": PLAIN, "should_retry": False},
        )
        task = await bursar.run()
        assert task["outcome"] == "upstream_failed"
        assert "is not allowed here" in task["error"]["message"]
        shown = await _views(bursar, task["id"])
    assert len(simulator.log.seen) == 2
    assert CANARY not in shown
    # The checker's formatter knows no secrets: the lines were clean before any redaction.
    assert not [line for line in log_lines.lines if CANARY in line]
    assert log_lines.entries("attempt_failed")
    assert CANARY.encode() not in _on_disk(tmp_path)


async def test_words_stay_out_of_the_journals_views(
    bursar: Running, log_lines: LineChecker
) -> None:
    """What the client and the model said is the client's: it is in the task, in no event and no log line."""
    asked, said, rule = "Words of the question.", "Words of the answer.", "Words of the rules."
    task = await bursar.run(f'{asked} [[sim {{"answer": "{said}"}}]]', system=rule)
    events = (await bursar.client.get(task["links"]["events"])).text
    assert task["result"] == said
    for words in (asked, said, rule):
        assert words not in events
        assert not [line for line in log_lines.lines if words in line]
