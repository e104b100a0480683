"""A run that has lost its task writes nothing more into it, at whichever of its writes it is overtaken."""

import ast
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest

import app
from app.domain.errors import StaleLease
from app.domain.task import (
    LOCAL_OWNER,
    Alternative,
    BudgetPolicy,
    Claim,
    Complexity,
    Routing,
    Urgency,
)
from app.llm.batching import items
from app.queue import leases, verbs
from app.store.port import ListenedStore, Tx
from app.store.sqlite import SqliteStore
from app.worker.recovery import rescue_all
from tests.support.clock import FakeClock
from tests.support.desk import prices
from tests.support.overtaken import OvertakenStore, Runner, open_runner
from tests.support.provider import HAIKU, Hang, Line, answer, calls, lost, status, text, tool_use
from tests.support.seeding import accepted, drift, hold_lease, lines_of, row_of
from tests.support.stores import Look, OpenStore

SONNET, OPUS = "claude-sonnet-5-5", "claude-opus-5-5"
ROUTING = Routing(
    0.5,
    (),
    (
        Alternative(Complexity.SIMPLE, HAIKU, 10, 100),
        Alternative(Complexity.MEDIUM, SONNET, 20, 200),
        Alternative(Complexity.COMPLEX, OPUS, 30, 300),
    ),
)
DONE = answer(text("done"))
ANSWERED = orjson.dumps({"type": "succeeded", "message": orjson.loads(DONE.raw)})
OVERLOADED = orjson.dumps({"type": "errored", "error": {"error": {"type": "overloaded_error"}}})
REJECTED = orjson.dumps({"type": "errored", "error": {"error": {"type": "invalid_request_error"}}})


def overloaded() -> BaseException:
    """No room, and soon to be asked again."""
    return status(529, "overloaded_error", retry_after_s=0.001)


@dataclass(frozen=True)
class Scene:
    """What one run meets."""

    script: Callable[[], Sequence[Line]]
    writers: str
    """Which functions write, in order."""
    spec: dict[str, Any] = field(default_factory=dict)
    result: bytes | None = None
    """What its batch has brought."""
    interrupt: str = "drain"


ECONOMY = {"urgency": Urgency.ECONOMY, "deadline_s": 90_000.0}
CALL, TOOL = "_reservation Caller._record", "AgentLoop._answer_tool"
FAILED = "_reservation Caller._fail"
END, LET_GO = "WorkerPool._finish", "WorkerPool._let_go"
SCENES = {
    "tools": Scene(
        lambda: [calls(tool_use("a"), tool_use("b")), DONE],
        f"{CALL} {TOOL} {TOOL} {CALL}",
        {"tools": ("probe",)},
    ),
    "retry": Scene(lambda: [overloaded(), DONE], f"{FAILED} {CALL}"),
    "lost and given up": Scene(
        lambda: [lost(retry_after_s=0.001), lost()], f"{FAILED} {FAILED} {END}"
    ),
    "rejected": Scene(lambda: [status(400)], f"{FAILED} {END}"),
    "parked": Scene(
        lambda: [status(429, "rate_limit_error", retry_after_s=60.0)], f"{FAILED} {LET_GO}"
    ),
    "drained": Scene(lambda: [Hang()], f"_reservation Caller._interrupted {LET_GO}"),
    "cancelled": Scene(
        lambda: [Hang()], f"_reservation Caller._interrupted {END}", interrupt="cancel"
    ),
    "a bug": Scene(lambda: [KeyError("bug")], f"_reservation Caller._interrupted {END}"),
    "classified": Scene(
        lambda: [overloaded(), overloaded(), answer(text("done"), model=SONNET)],
        f"{FAILED} {FAILED} Classifier._fall_back {CALL}",
        {"classify": True, "routing": ROUTING, "complexity": Complexity.MEDIUM, "model": SONNET},
    ),
    "fallback": Scene(
        lambda: [overloaded(), overloaded(), answer(text("done"), model=SONNET)],
        f"{FAILED} {FAILED} Fallback._goes_on {CALL}",
        {"fallback": (SONNET,)},
    ),
    "finalize": Scene(
        list,
        f"_reservation SpentBudget._write _reservation {END}",
        {"budget_nano": 9, "on_budget": BudgetPolicy.FINALIZE},
    ),
    "pause": Scene(
        list, f"_reservation {LET_GO}", {"budget_nano": 9, "on_budget": BudgetPolicy.PAUSE}
    ),
    "into a batch": Scene(list, f"_reservation {LET_GO}", ECONOMY),
    "out of a batch": Scene(list, "Economy._answered", ECONOMY, ANSWERED),
    "again into a batch": Scene(
        list, f"Economy._failed _reservation {LET_GO}", ECONOMY, OVERLOADED
    ),
    "refused by a batch": Scene(list, f"Economy._failed {END}", ECONOMY, REJECTED),
}


@dataclass
class Stage:
    """A store with tasks in it, one after the other."""

    store: ListenedStore
    look: Look
    count: int = 0

    async def claim(self, scene: Scene) -> Claim:
        """A new task that runs, at the scene's beginning."""
        self.count += 1
        task_id = f"t{self.count}"
        await accepted(self.store, task_id, session_id=task_id, **scene.spec)
        claim = await self.claimed(task_id)
        if scene.result is None:
            return claim
        result = scene.result
        async with open_runner(self.store, ()) as runner:
            await runner.run(claim)
        await self.store.write(
            lambda tx: items.returned(tx, prices(), f"{task_id}-1-1", result, "batch_1")
        )
        return await self.claimed(task_id)

    async def claimed(self, task_id: str, worker: str = "w") -> Claim:
        """It runs at that worker's."""

        def op(tx: Tx) -> Claim:
            hold_lease(tx, worker)
            claim = verbs.claim_one(tx, worker, task_id)
            assert claim is not None
            return claim

        return await self.store.write(op)

    async def taken(self, task_id: str, how: str) -> Claim | None:
        """What others do with it; their claim, where it runs again."""
        if how == "cancelled":
            await self.store.write(lambda tx: verbs.cancel(tx, LOCAL_OWNER, task_id))
        await self.store.write(lambda tx: leases.leave(tx, "w"))
        assert await rescue_all(self.store, "lease_expired", 5) == 1
        return await self.claimed(task_id, "w2") if how == "running" else None

    def written(self, task_id: str) -> list[Any]:
        """All that is written of a task, but for what its lines say of the money."""
        key = f"WHERE task_id = '{task_id}' ORDER BY step, attempt"
        return [
            self.look(f"SELECT * FROM tasks WHERE id = '{task_id}'"),  # noqa: S608
            self.look(f"SELECT * FROM events WHERE subject = '{task_id}' ORDER BY seq"),  # noqa: S608
            self.look(f"SELECT step, attempt, run, entry FROM ledger_lines {key}, ended"),  # noqa: S608
            self.look(f"SELECT * FROM batch_items {key}"),  # noqa: S608
        ]


@pytest.fixture
def stage(open_store: OpenStore, look: Look) -> Stage:
    """An empty one, on every database."""
    return Stage(open_store(FakeClock()), look)


@pytest.mark.parametrize("name", SCENES)
async def test_a_run_is_overtaken_at_each_of_its_writes(stage: Stage, name: str) -> None:
    """The task waits, runs elsewhere or has ended: it stays so, and the run asks and starts nothing more."""
    scene = SCENES[name]
    whole = OvertakenStore(stage.store)
    async with open_runner(whole, scene.script()) as runner:
        await runner.run(await stage.claim(scene), interrupt=scene.interrupt)
    assert " ".join(whole.writers) == scene.writers
    for at in range(len(whole.writers)):
        embedded = isinstance(
            stage.store, SqliteStore
        )  # what the statements say is in test_queries
        how = ("waiting", "cancelled")[at % 2] if embedded else "running"
        await overtaken(stage, scene, at, how)
    assert await drift(stage.store) == []


async def overtaken(stage: Stage, scene: Scene, at: int, how: str) -> None:
    """One run that is overtaken before its write number `at`."""
    claim = await stage.claim(scene)
    task_id, before = claim.subject.task_id, list[Any]()

    async def others() -> None:
        await stage.taken(task_id, how)
        before.append((stage.written(task_id), begun(runner)))

    async with open_runner(OvertakenStore(stage.store, at, others), scene.script()) as runner:
        with pytest.raises(StaleLease):
            await runner.run(claim, interrupt=scene.interrupt)
        assert [(stage.written(task_id), begun(runner))] == before, f"write {at}, {how}"


def begun(runner: Runner) -> tuple[int, int]:
    """How many calls and tools have begun."""
    return len(runner.provider.asked), len(runner.probe.calls)


async def refused(stage: Stage, how: str) -> tuple[Claim, Claim | None]:
    """A run that was overtaken just before it took in what its batch had brought; and the run after it."""
    claim = await stage.claim(SCENES["out of a batch"])
    task_id, again = claim.subject.task_id, list[Claim | None]()

    async def others() -> None:
        again.append(await stage.taken(task_id, how))

    async with open_runner(OvertakenStore(stage.store, 0, others), ()) as runner:
        with pytest.raises(StaleLease):
            await runner.run(claim)
    return claim, again[0]


async def test_the_next_run_takes_in_what_the_stale_one_could_not(stage: Stage) -> None:
    """The batch's answer is still there, its reservation still open: it is paid once."""
    claim, again = await refused(stage, "running")
    assert again is not None
    async with open_runner(stage.store, (), "w2") as runner:
        await runner.run(again)
    task_id = claim.subject.task_id
    row, lines = await row_of(stage.store, task_id), await lines_of(stage.store, task_id)
    assert (row["status"], row["reserved_nano"], row["run_count"]) == ("succeeded", 0, 3)
    assert (lines["calls"], lines["confirmed_nano"]) == (1, row["spent_nano"])
    assert row["spent_nano"] > 0
    assert await drift(stage.store) == []


async def test_the_truth_of_a_batch_outlives_its_task(stage: Stage) -> None:
    """It ended before the answer was taken in: presumed lost, and confirmed by whoever looks after batches."""
    claim, _ = await refused(stage, "cancelled")
    task_id = claim.subject.task_id
    presumed = await lines_of(stage.store, task_id)
    (item,) = await stage.store.read(lambda tx: items.given_up(tx, 9))
    await stage.store.write(lambda tx: items.confirm_given_up(tx, prices(), item))
    lines = await lines_of(stage.store, task_id)
    assert 0 < lines["confirmed_nano"] < presumed["presumed_nano"]
    assert (lines["calls"], lines["presumed_nano"]) == (1, 0)
    assert await drift(stage.store) == []


APART = {
    "Reserver._try": "writes `_reservation`; a cancelled one is undone as `book_unsent`: test_booking_stale",
    "Caller._ask_the_store": "asks the fence, and undoes as `book_unsent`: test_stalled",
    "WorkerPool._is_called_off": "only reads",
    "WorkerPool._make_available": "of a task that waits, unless it has gone on elsewhere: test_elsewhere",
}
"""Writers that no scene has by this name."""


def test_no_writer_is_left_out() -> None:
    """Whatever a run writes with is in a scene above: a new writer needs one, and a fence."""
    assert app.__file__ is not None
    root, found = Path(app.__file__).parent, set[str]()
    for folder in ("agent", "llm", "tools"):
        for path in (root / folder).rglob("*.py"):
            found |= writers_in(path)
    found |= writers_in(root / "worker" / "pool.py")
    played = {name for scene in SCENES.values() for name in scene.writers.split()}
    assert found == (played | set(APART)) - {"_reservation"}


def writers_in(path: Path) -> set[str]:
    """The functions of a module that write to the store."""
    text, found = path.read_text(), set[str]()
    if not any(word in text for word in ("persist(", "shielded(", "write(")):
        return found
    for holder in ast.parse(text).body:
        within = holder.body if isinstance(holder, ast.ClassDef) else [holder]
        outer = f"{holder.name}." if isinstance(holder, ast.ClassDef) else ""
        for function in within:
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef) and any(
                is_write(node) for node in ast.walk(function)
            ):
                found.add(outer + function.name)
    return found


def is_write(node: ast.AST) -> bool:
    """A call of `persist` or `shielded`, or of a store's own `write` or `begin_write`."""
    match node:
        case ast.Call(func=ast.Name(id="persist" | "shielded")):
            return True
        case ast.Call(func=ast.Attribute(attr="write" | "begin_write", value=whose)):
            return ast.unparse(whose).endswith("store")
        case _:
            return False
