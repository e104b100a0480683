"""Rows as the API shows them: plain dictionaries of the shapes in `schemas`."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson
from fastapi import Response

from app.api.submit import Submission
from app.domain.clock import US_PER_S, rfc3339
from app.domain.money import usd_from_nano
from app.domain.task import Outcome, Routing, TaskSpec, TaskStatus, Urgency
from app.queue.retrying import needs, used_steps
from app.queue.spec import spec_of
from app.store.port import Row, Tx

_ECONOMY = f'"urgency":"{Urgency.ECONOMY}"'
"""In a submission as it is stored; in a prompt its quotes would be escaped."""
METERS = ("input", "output", "cache_read", "cache_write_5m", "cache_write_1h")
NO_USAGE: Mapping[str, int] = dict.fromkeys(
    ["calls", "spent_nano", "confirmed_nano", "estimated_nano", "presumed_nano"]
    + [f"{meter}_tokens" for meter in METERS],
    0,
)


NOTHING_USED: Mapping[str, int] = {**NO_USAGE, "cache_saved_nano": 0}
"""Of a task or a session, which say what caching saved, too."""


def json(body: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON response."""
    return Response(orjson.dumps(body), status, headers, "application/json")


def accepted_task(submission: Submission, at_us: int, *, simulated: bool) -> dict[str, Any]:
    """A task that was accepted a moment ago, without reading it back."""
    subject, spec = submission.subject, submission.spec
    shown = _head(subject.task_id, subject.session_id, spec, submission.priority)
    shown.update(
        status=TaskStatus.QUEUED,
        outcome=None,
        result=None,
        partial=False,
        error=None,
        retry=None,
        paused=None,
        batch=None,
        steps=0,
        runs=0,
        created_at=rfc3339(at_us),
        started_at=None,
        finished_at=None,
        deadline_at=rfc3339(max(at_us, spec.run_at_us or 0) + int(spec.deadline_s * US_PER_S)),
        erased_at=None,
        simulated=simulated,
        subtasks_cost_usd=0.0,
        **_money(spec.budget_nano, 0, 0),
        **_used(NO_USAGE),
        cache=_cache([NOTHING_USED]),
    )
    return shown


def task(
    row: Row, used: Row | Mapping[str, int], *, simulated: bool, item: Row | None = None
) -> dict[str, Any]:
    """A task from its row, with what its ledger lines sum up to, and its item of a batch."""
    shown = _head(row["id"], row["session_id"], spec_of(row["spec"]), row["priority"])
    shown.update(
        status=row["status"],
        outcome=row["outcome"],
        result=_loads(row["result_json"]),
        partial=bool(row["result_partial"]),
        error=_loads(row["error_json"]),
        retry=_retry(row),
        paused=_paused(row["paused_json"]),
        batch=_batch(item),
        steps=row["step_count"],
        runs=row["run_count"],
        created_at=rfc3339(row["created_at_us"]),
        started_at=_instant(row["started_at_us"]),
        finished_at=_instant(row["finished_at_us"]),
        deadline_at=rfc3339(row["deadline_at_us"]),
        erased_at=_instant(row["erased_at_us"]),
        simulated=simulated,
        # The account has what sub-tasks drew on it, too; the task's cost is what its own lines say.
        subtasks_cost_usd=usd_from_nano(row["spent_nano"] - used["spent_nano"]),
        **_money(row["limit_nano"], row["spent_nano"], row["reserved_nano"]),
        **_used(used),
        cache=_cache([used]),
    )
    shown["cost_usd"] = usd_from_nano(used["spent_nano"])
    if row["erased_at_us"] is not None:
        shown["task"] = None
    return shown


def session(row: Row) -> dict[str, Any]:
    """A session from its row."""
    balance = _money(row["limit_nano"], row["spent_nano"], row["reserved_nano"])
    balance["spent_usd"] = balance.pop("cost_usd")
    return {
        "id": row["id"],
        "created_at": rfc3339(row["created_at_us"]),
        "tasks": row["task_count"],
        **balance,
        "links": {
            "self": f"/sessions/{row['id']}",
            "usage": f"/sessions/{row['id']}/usage",
            "ledger": f"/sessions/{row['id']}/ledger",
        },
    }


def session_usage(
    row: Row, by_model: Sequence[Row], tasks: Iterable[Row], next_cursor: str | None
) -> dict[str, Any]:
    """A session's usage: its sums by model, and those of one page of its tasks."""
    spent_nano = sum(r["spent_nano"] for r in by_model)
    balance = _money(row["limit_nano"], spent_nano, row["reserved_nano"])
    del balance["cost_usd"]
    return {
        "session_id": row["id"],
        **usage(by_model),
        "cache": _cache(by_model),
        **balance,
        "by_model": {r["model"]: usage([r]) for r in by_model},
        "by_task": {r["task_id"]: usage([r]) for r in tasks if r["calls"]},
        "next_cursor": next_cursor,
    }


def ledger_line(row: Row) -> dict[str, Any]:
    """A line of the ledger from its row."""
    return {
        "attempt_id": f"{row['task_id']}/{row['step']}/{row['attempt']}",
        "task_id": row["task_id"],
        "step": row["step"],
        "attempt": row["attempt"],
        "run": row["run"],
        "entry": row["entry"],
        "kind": row["kind"],
        "model": row["model"],
        "price_row": row["price_row"],
        "bound": row["bound"],
        "key_id": row["key_id"] or None,
        "agent": row["agent"] or None,
        "scopes": [kind for kind, _ in orjson.loads(row["scopes"])],
        "amount_usd": usd_from_nano(row["amount_nano"]),
        "surplus_usd": usd_from_nano(row["surplus_nano"]),
        "presumed_usd": _usd_or_none(row["presumed_nano"]),
        "tokens": {meter: row[f"{meter}_tokens"] for meter in METERS},
        "web_searches": row["web_searches"],
        "cache_saved_usd": usd_from_nano(row["cache_saved_nano"]),
        "at": rfc3339(row["at_us"]),
        "confirmed_at": None if row["confirmed_at_us"] is None else rfc3339(row["confirmed_at_us"]),
    }


def _usd_or_none(nano: int | None) -> float | None:
    return None if nano is None else usd_from_nano(nano)


def usage(rows: Sequence[Row]) -> dict[str, Any]:
    """What rows of usage sum up to."""
    total = {name: sum(row[name] for row in rows) for name in NO_USAGE}
    return {"spent_usd": usd_from_nano(total["spent_nano"]), **_used(total)}


def routing(made: Routing | None) -> dict[str, Any] | None:
    """The router's decision, where it made one."""
    if made is None:
        return None
    return {
        "score": made.score,
        "signals": [{"name": s.name, "effect": s.effect} for s in made.signals],
        "alternatives": [
            {
                "complexity": other.complexity,
                "model": other.model,
                "likely_usd": usd_from_nano(other.paid_nano),
                "worst_case_usd": usd_from_nano(other.worst_nano),
            }
            for other in made.alternatives
        ],
    }


def _head(task_id: str, session_id: str, spec: TaskSpec, priority: int) -> dict[str, Any]:
    own = f"/tasks/{task_id}"
    return {
        "id": task_id,
        "task": spec.text,
        "complexity": spec.complexity,
        "model": spec.model,
        "model_reason": spec.model_reason,
        "routing": routing(spec.routing),
        "system": spec.system,
        "tools": list(spec.tools),
        "session_id": session_id,
        "priority": priority,
        "run_at": _instant(spec.run_at_us),
        "max_steps": spec.max_steps,
        "max_tokens": spec.max_tokens,
        "urgency": spec.urgency,
        "on_budget": spec.on_budget,
        "downgrade": spec.downgrade,
        "escalate": spec.escalate,
        "compact_above_tokens": spec.compact_above_tokens,
        "fallback_models": list(spec.fallback),
        "bound": spec.bound,
        "parent_id": spec.ancestors[0] if spec.ancestors else None,
        "agent": spec.agent,
        "metadata": spec.metadata,
        "links": {
            "self": own,
            "events": f"{own}/events",
            "cancel": f"{own}/cancel",
            "retry": f"{own}/retry",
            "budget": f"{own}/budget",
            "ledger": f"{own}/ledger",
            "session": f"/sessions/{session_id}",
            "usage": f"/sessions/{session_id}/usage",
        },
    }


def _money(limit_nano: int, spent_nano: int, reserved_nano: int) -> dict[str, float]:
    return {
        "budget_usd": usd_from_nano(limit_nano),
        "cost_usd": usd_from_nano(spent_nano),
        "reserved_usd": usd_from_nano(reserved_nano),
        "remaining_usd": usd_from_nano(max(limit_nano - spent_nano - reserved_nano, 0)),
    }


def _used(used: Row | Mapping[str, int]) -> dict[str, Any]:
    return {
        "calls": used["calls"],
        "tokens": {meter: used[f"{meter}_tokens"] for meter in METERS},
        "cost": {
            f"{kind}_usd": usd_from_nano(used[f"{kind}_nano"])
            for kind in ("confirmed", "estimated", "presumed")
        },
    }


def _cache(rows: Sequence[Row | Mapping[str, int]]) -> dict[str, float]:
    """What of the prompts was read from the cache, and what that saved."""
    read = sum(row["cache_read_tokens"] for row in rows)
    prompt = sum(row[f"{meter}_tokens"] for row in rows for meter in METERS if meter != "output")
    saved_nano = sum(row["cache_saved_nano"] for row in rows)
    share = round(read / prompt, 4) if prompt else 0.0
    return {"read_share": share, "saved_usd": usd_from_nano(saved_nano)}


def _retry(row: Row) -> dict[str, Any] | None:
    if row["status"] != TaskStatus.FAILED or row["erased_at_us"] is not None:
        return None
    outcome, spec = Outcome(row["outcome"]), spec_of(row["spec"])
    used = used_steps(outcome, spec, row["step_count"])
    needed, advice = needs(outcome, used, spec.max_steps)
    return {"needs": needed, "advice": advice}


def _paused(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    found = orjson.loads(text)
    money = {
        f"{name}_usd": usd_from_nano(found[f"{name}_nano"])
        for name in ("limit", "spent", "reserved", "needed")
    }
    resets_at = _instant(found["resets_at_us"])
    return {
        "reason": found["reason"],
        "scope": found["scope"],
        "scope_id": found["scope_id"],
        **money,
        "resets_at": resets_at,
    }


def batch_item(tx: Tx, row: Row) -> Row | None:
    """The question of an economy task that has not ended, where it is on its way."""
    if row["outcome"] is not None or _ECONOMY not in row["spec"]:
        return None
    found = [i for i in tx.all("batch_items_of_task", task_id=row["id"]) if not i["given_up"]]
    return found[-1] if found else None


def _batch(item: Row | None) -> dict[str, Any] | None:
    if item is None:
        return None
    if item["result"] is not None:
        state = "returned"
    else:
        state = "waiting" if item["provider_id"] is None else "in_batch"
    since = rfc3339(item["made_at_us"])
    return {"state": state, "batch_id": item["provider_id"], "since": since}


def _instant(at_us: int | None) -> str | None:
    return None if at_us is None else rfc3339(at_us)


def _loads(text: str | None) -> Any:
    return None if text is None else orjson.loads(text)
