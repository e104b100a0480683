"""Errors that are no fault of the body: budgets, load, stops, stores, bugs."""

from pathlib import Path
from typing import Any

import pytest

from app.domain.errors import StoreCorrupt, StoreFull, StoreUnavailable
from tests.support.failing_store import FailingStore
from tests.support.loglines import LineChecker
from tests.support.service import HANG, Running, started

TYPE = "urn:bursar:problem:"
SOMEWHERE = "/srv/private/bursar.db"
GETS = (
    "/tasks",
    "/tasks/task_x",
    "/tasks/task_x/events",
    "/sessions/s",
    "/sessions/s/usage",
    "/metrics",
)
WRITES: tuple[tuple[str, str, Any], ...] = (
    ("POST", "/tasks", {"task": "x"}),
    ("POST", "/tasks/task_x/cancel", None),
    ("PUT", "/sessions/s/budget", {"budget_usd": 1}),
)


def _failing(bursar: Running) -> FailingStore:
    """Put a failing store between the API and its store; the workers keep theirs."""
    store = FailingStore(bursar.service.store)
    bursar.service.services.store = store
    return store


class TestBudgets:
    """402: judged by spent money, before a task is made."""

    async def test_a_spent_session(self, bursar: Running) -> None:
        """The problem says whose budget, how it stands, and what a call would need."""
        task = await bursar.run(session_id="s")
        await bursar.client.put("/sessions/s/budget", json={"budget_usd": task["cost_usd"]})
        answer = await bursar.client.post("/tasks", json={"task": "More.", "session_id": "s"})
        body = answer.json()
        assert (answer.status_code, body["type"]) == (402, TYPE + "budget-exhausted")
        assert "retry-after" not in answer.headers
        assert body["scope"] == "session"
        assert body["limit_usd"] == body["spent_usd"] == task["cost_usd"]
        assert body["reserved_usd"] == body["remaining_usd"] == 0.0
        assert body["needed_usd"] > 0
        assert body["resets_at"] is None
        assert bursar.rows("SELECT COUNT(*) AS n FROM tasks") == [{"n": 1}]

    async def test_just_enough(self, bursar: Running) -> None:
        """With what the problem said is needed, the submission is accepted; a nano-dollar less, and not."""
        await bursar.client.put("/sessions/s/budget", json={"budget_usd": 0})
        body = {"task": "Say hello.", "session_id": "s"}
        needed = (await bursar.client.post("/tasks", json=body)).json()["needed_usd"]
        for budget_usd, status in ((round(needed - 1e-9, 9), 402), (needed, 202)):
            await bursar.client.put("/sessions/s/budget", json={"budget_usd": budget_usd})
            assert (await bursar.client.post("/tasks", json=body)).status_code == status

    async def test_the_service(self, tmp_path: Path) -> None:
        """A service-wide budget that is spent refuses every session."""
        async with started(tmp_path, service_budget_usd="0.000000001") as bursar:
            answer = await bursar.client.post("/tasks", json={"task": "x"})
            metrics = (await bursar.client.get("/metrics")).text
        assert (answer.status_code, answer.json()["scope"]) == (402, "service")
        assert 'bursar_budget_rejections_total{scope="service"} 1.0' in metrics

    async def test_reservations_do_not_count(self, tmp_path: Path) -> None:
        """What a running call holds is not spent: it may come back."""
        async with started(tmp_path) as bursar:
            bursar.script(HANG)
            first = await bursar.submit(session_id="s")
            await bursar.saw(first["id"], "attempt_started")
            held = (await bursar.client.get("/sessions/s")).json()["reserved_usd"]
            assert held > 0
            await bursar.client.put("/sessions/s/budget", json={"budget_usd": held})
            answer = await bursar.client.post("/tasks", json={"task": "x", "session_id": "s"})
            assert answer.status_code == 202

    async def test_a_task_of_its_own(self, bursar: Running) -> None:
        """A task whose own budget pays no call is accepted and ends unpaid: the budget is the task's."""
        task = await bursar.run(budget_usd=0.000000001)
        assert (task["status"], task["outcome"]) == ("failed", "budget_exhausted")
        assert (task["calls"], task["cost_usd"]) == (0, 0.0)
        assert bursar.simulator.bill.total.lines == 0


async def test_a_full_queue(tmp_path: Path) -> None:
    """429 with Retry-After beyond the bound; when a place is free, the next one gets it."""
    async with started(tmp_path, workers=1, queue_limit=2) as bursar:
        bursar.script(HANG)
        running = await bursar.submit()
        await bursar.saw(running["id"], "attempt_started")
        waiting = [await bursar.submit() for _ in range(2)]
        answer = await bursar.client.post("/tasks", json={"task": "One more."})
        assert (answer.status_code, answer.json()["type"]) == (429, TYPE + "queue-full")
        assert int(answer.headers["retry-after"]) > 0
        assert answer.json()["queue_limit"] == 2
        assert bursar.rows("SELECT COUNT(*) AS n FROM tasks") == [{"n": 3}]
        await bursar.client.post(waiting[0]["links"]["cancel"])
        await bursar.submit("Now there is room.")


async def test_stopping(bursar: Running) -> None:
    """A stopping service takes no work and is not ready, but still tells how things stand."""
    task = await bursar.run()
    await bursar.service.drain()
    for answer in (
        await bursar.client.post("/tasks", json={"task": "x"}),
        await bursar.client.get("/readyz"),
    ):
        assert (answer.status_code, answer.json()["type"]) == (503, TYPE + "stopping")
    answer = await bursar.client.post("/tasks", json={"task": "x"})
    assert int(answer.headers["retry-after"]) > 0
    assert (await bursar.client.get(task["links"]["self"])).json()["status"] == "succeeded"
    assert (await bursar.client.get("/healthz")).status_code == 200


class TestStore:
    """What a failing store looks like from outside."""

    @pytest.mark.parametrize(
        ("error", "status", "kind"),
        [
            (StoreFull(f"No space left for {SOMEWHERE}."), 507, "store-full"),
            (StoreUnavailable(f"{SOMEWHERE} is locked"), 503, "store-unavailable"),
            (StoreCorrupt(f"{SOMEWHERE} is damaged"), 503, "store-unavailable"),
        ],
        ids=["full", "unavailable", "corrupt"],
    )
    async def test_everywhere(
        self,
        bursar: Running,
        log_lines: LineChecker,
        error: Exception,
        status: int,
        kind: str,
    ) -> None:
        """Every endpoint answers with the same problem and Retry-After; the log has what happened."""
        store = _failing(bursar)
        store.error, store.reads = error, True
        asked = [("GET", path, None) for path in GETS] + list(WRITES)
        for method, path, body in asked:
            answer = await bursar.client.request(method, path, json=body)
            assert (answer.status_code, answer.json()["type"]) == (status, TYPE + kind), path
            assert int(answer.headers["retry-after"]) > 0
            assert SOMEWHERE not in answer.text
        logged = log_lines.entries("store_failed")
        assert len(logged) == len(asked)
        assert {entry["error_type"] for entry in logged} == {type(error).__name__}

    async def test_ready_again(self, bursar: Running) -> None:
        """Readiness follows the store; liveness does not."""
        store = _failing(bursar)
        store.error = StoreUnavailable("locked")
        answer = await bursar.client.get("/readyz")
        assert (answer.status_code, answer.json()["type"]) == (503, TYPE + "store-unavailable")
        assert int(answer.headers["retry-after"]) > 0
        assert (await bursar.client.get("/healthz")).status_code == 200
        store.error = None
        assert (await bursar.client.get("/readyz")).json() == {"status": "ready", "simulated": True}

    async def test_a_refused_task_leaves_its_place(self, tmp_path: Path) -> None:
        """A submission that the store refused does not take a place in the queue for good."""
        async with started(tmp_path, queue_limit=1) as bursar:
            store = _failing(bursar)
            store.error = StoreFull("full")
            for _ in range(3):
                answer = await bursar.client.post("/tasks", json={"task": "x"})
                assert answer.status_code == 507
            store.error = None
            assert (await bursar.run())["status"] == "succeeded"


class TestBugs:
    """A bug of ours is a 500 that says nothing, and a log line that says everything."""

    async def test_nothing_leaks(self, bursar: Running, log_lines: LineChecker) -> None:
        """No message, no type, no trace of the error reaches the client."""
        store = _failing(bursar)
        store.error, store.reads = ZeroDivisionError("planted in /srv/private"), True
        asked = [("GET", path, None) for path in GETS] + list(WRITES)
        for method, path, body in asked:
            answer = await bursar.client.request(method, path, json=body)
            assert (answer.status_code, answer.json()["type"]) == (500, TYPE + "internal-error")
            for secret in ("planted", "private", "ZeroDivision"):
                assert secret not in answer.text
        logged = log_lines.entries("request_failed")
        assert len(logged) == len(asked)
        assert all("planted in /srv/private" in entry["traceback"] for entry in logged)
        assert {entry["error_type"] for entry in logged} == {"ZeroDivisionError"}

    async def test_the_service_goes_on(self, bursar: Running) -> None:
        """The next request is served as if nothing had been."""
        store = _failing(bursar)
        store.error = ZeroDivisionError("planted")
        assert (await bursar.client.post("/tasks", json={"task": "x"})).status_code == 500
        store.error = None
        assert (await bursar.run())["status"] == "succeeded"


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("GET", "/tasks/task_none", 404, "task-not-found"),
        ("GET", "/tasks/%00", 404, "task-not-found"),
        ("GET", "/tasks/%ff", 404, "task-not-found"),
        ("GET", "/tasks/task_none/events", 404, "task-not-found"),
        ("POST", "/tasks/task_none/cancel", 404, "task-not-found"),
        ("GET", "/sessions/none", 404, "session-not-found"),
        ("GET", "/sessions/none/usage", 404, "session-not-found"),
        ("GET", "/sessions/%20", 422, "invalid-request"),
        ("GET", "/nothing", 404, "not-found"),
        ("GET", "/tasks/", 404, "not-found"),
        ("GET", "/tasks/a/b", 404, "not-found"),
        ("DELETE", "/tasks", 405, "method-not-allowed"),
        ("PUT", "/tasks/x", 405, "method-not-allowed"),
        ("POST", "/sessions/s/budget", 405, "method-not-allowed"),
    ],
)
async def test_wrong_places(
    bursar: Running, method: str, path: str, status: int, kind: str
) -> None:
    """Unknown ids, paths and methods are problems with types of their own."""
    answer = await bursar.client.request(method, path)
    assert (answer.status_code, answer.json()["type"]) == (status, TYPE + kind)
    if status == 405:
        assert answer.headers["allow"]
