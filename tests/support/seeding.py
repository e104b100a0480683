"""Rows to begin with: accepted and claimed tasks, made by the same verbs the service uses."""

from typing import Any, cast

from app.budget.accounts import open_account
from app.budget.audit import Drift, audit
from app.budget.scopes import Payer, Scope, session_scope, task_scope
from app.domain.lease import Lease
from app.domain.money import NANO_PER_USD
from app.domain.task import LOCAL_OWNER, Claim, Complexity, Subject, TaskSpec
from app.journal.events import TaskAccepted
from app.journal.journal import append
from app.queue import leases, verbs
from app.store.port import Row, Store, Tx
from tests.support.provider import HAIKU

USD = NANO_PER_USD
_LONG_S = 1e8


def spec(**given: Any) -> TaskSpec:
    """A submission with the usual defaults."""
    fields: dict[str, Any] = {
        "text": "Say hello.",
        "complexity": Complexity.SIMPLE,
        "model": HAIKU,
        "model_reason": "complexity:simple",
        "max_steps": 10,
        "max_tokens": 2_048,
        "max_tokens_explicit": False,
        "deadline_s": 600.0,
        "budget_nano": USD // 2,
    }
    return TaskSpec(**{**fields, **given})


def accept(
    tx: Tx,
    task_id: str,
    asked: TaskSpec,
    *,
    session_id: str = "s",
    session_nano: int = 5 * USD,
    priority: int = 0,
) -> Subject:
    """What POST /tasks writes."""
    subject = Subject(task_id, session_id)
    tx.run("open_session", owner=LOCAL_OWNER, id=session_id, now_us=tx.now_us)
    open_account(tx, session_scope(LOCAL_OWNER, session_id), LOCAL_OWNER, session_nano)
    open_account(tx, task_scope(subject.task_id), LOCAL_OWNER, asked.budget_nano)
    verbs.enqueue(tx, subject, asked, priority)
    append(
        tx,
        subject,
        TaskAccepted(
            complexity=asked.complexity,
            model=asked.model,
            reason=asked.model_reason,
            tools=asked.tools,
            budget_nano=asked.budget_nano,
            session_budget_nano=session_nano,
            max_steps=asked.max_steps,
            max_tokens=asked.max_tokens,
            priority=priority,
            input_bytes=len(asked.text.encode()),
        ),
    )
    return subject


async def accepted(store: Store, task_id: str = "t", **given: Any) -> Subject:
    """A durable waiting task; `given` are fields of its spec, or of `accept`."""
    outer = {
        key: given.pop(key) for key in ("session_id", "session_nano", "priority") if key in given
    }
    return await store.write(lambda tx: accept(tx, task_id, spec(**given), **outer))


def hold_lease(tx: Tx, worker: str = "w") -> None:
    """Let the worker hold tasks for as long as any test lasts."""
    leases.take(tx, worker, slots=1, lease_s=_LONG_S)


async def lease_of(store: Store, worker: str = "w") -> Lease:
    """The lease of a process that holds it."""
    await store.write(lambda tx: hold_lease(tx, worker))
    return Lease(worker)


def claim_now(tx: Tx, limit: int, worker: str = "w") -> list[Claim]:
    """Take waiting tasks, with a lease that does not run out."""
    hold_lease(tx, worker)
    return verbs.claim(tx, worker, limit)


async def claimed(store: Store, task_id: str = "t", **given: Any) -> Claim:
    """A running task; nothing else may be waiting."""
    await accepted(store, task_id, **given)
    (claim,) = await store.write(lambda tx: claim_now(tx, 1))
    assert claim.subject.task_id == task_id
    return claim


def payer_of(claim: Claim) -> Payer:
    """Who pays for the task's calls."""
    subject, asked = claim.subject, claim.spec
    return Payer(subject.task_id, subject.session_id, subject.owner, asked.ancestors, asked.key_id)


def scopes_of(subject: Subject, *shared: Scope) -> tuple[Scope, ...]:
    """The scopes of a task's calls, in their fixed order."""
    return (task_scope(subject.task_id), session_scope(subject.owner, subject.session_id), *shared)


async def row_of(store: Store, task_id: str = "t") -> Row:
    """The task as it stands, its account joined."""
    row = await store.read(lambda tx: tx.one("read_task", id=task_id, owner=LOCAL_OWNER))
    assert row is not None
    return row


async def lines_of(store: Store, task_id: str = "t") -> dict[str, Any]:
    """The sums of the task's settlements."""
    row = await store.read(lambda tx: tx.one("usage_of_task", task_id=task_id, owner=LOCAL_OWNER))
    assert row is not None
    return dict(cast("Any", row))


async def drift(store: Store) -> list[Drift]:
    """Accounts that are not the sum of their lines."""
    return list((await store.read(audit)).drifts)
