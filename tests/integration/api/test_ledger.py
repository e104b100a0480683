"""The ledger's endpoints: every dollar explained, and totals that are sums over lines."""

import pytest

from tests.support.service import Running


async def test_a_tasks_lines_explain_its_cost(bursar: Running) -> None:
    """Each attempt is reserved and ended; settlements sum up to the task's cost."""
    task = await bursar.run('What is 6*7? [[sim {"steps": 2}]]', tools=["calculator"])
    page = (await bursar.client.get(f"/tasks/{task['id']}/ledger")).json()
    assert [line["entry"] for line in page["lines"]] == ["reservation", "settlement"] * 3
    settled = [line for line in page["lines"] if line["entry"] == "settlement"]
    assert sum(round(line["amount_usd"] * 1e9) for line in settled) == round(task["cost_usd"] * 1e9)
    assert page["totals"]["spent_usd"] == task["cost_usd"] > 0
    assert page["totals"]["calls"] == 3
    for line in settled:
        assert line["kind"] == "confirmed"
        assert line["scopes"] == ["task", "session"]
        assert line["price_row"].endswith(line["model"])
        assert line["tokens"]["input"] > 0
    assert page["next_cursor"] is None


async def test_a_sessions_lines_in_pages(bursar: Running) -> None:
    """Pages follow each other without a gap or a repetition, and all of them show the same totals."""
    for number in range(3):
        await bursar.run(f"Task {number}", session_id="books")
    seen, cursor, totals = [], None, []
    while True:
        query = {"limit": 2} | ({"cursor": cursor} if cursor else {})
        page = (await bursar.client.get("/sessions/books/ledger", params=query)).json()
        seen += [(line["attempt_id"], line["entry"]) for line in page["lines"]]
        totals.append(page["totals"])
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert len(seen) == len(set(seen)) == 6
    assert len(totals) == 3
    assert all(total == totals[0] for total in totals)
    usage = (await bursar.client.get("/sessions/books/usage")).json()
    assert totals[0]["spent_usd"] == usage["spent_usd"] > 0


@pytest.mark.parametrize("path", ["/tasks/task_none/ledger", "/sessions/none/ledger"])
async def test_unknown(bursar: Running, path: str) -> None:
    """What does not exist has no ledger."""
    assert (await bursar.client.get(path)).status_code == 404


@pytest.mark.before_the_store
@pytest.mark.parametrize("cursor", ["x", "W10", "bm90IGpzb24", "WzEsMiwzLDQsNV0"])
async def test_a_bad_cursor(bursar: Running, cursor: str) -> None:
    """A cursor of nobody's making is a problem, not an error of ours."""
    await bursar.run("Hello", session_id="books")
    answer = await bursar.client.get("/sessions/books/ledger", params={"cursor": cursor})
    assert answer.status_code == 400
