"""Examine a store: the books held against themselves, and every task against its journal."""

import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from app.budget.audit import Audit, Drift, audit
from app.budget.broken import Broken
from app.doctor.findings import Finding, Findings
from app.doctor.line import UNCLAIMED, look_at_line
from app.doctor.rounds import Rounds, make_rounds
from app.domain.errors import StoreUnavailable
from app.domain.money import format_usd
from app.domain.record import record
from app.store.port import Tx
from app.store.queries import load_migrations
from app.store.snapshot import examine_file, snapshot


@record(frozen=True, slots=True)
class Report:
    """What was looked at and found. `drifts` are sentences: balances that are not the sum of their lines."""

    accounts: int
    lines: int
    tasks: int
    events: int
    drifts: tuple[str, ...]
    findings: Findings

    @property
    def sound(self) -> bool:
        """Nothing was found."""
        return not self.drifts and not self.findings.counts


SECOND_LOOK_S = 20.0
"""Longer than the service needs to find a task whose ticket is lost: see `app.queue.sweep`."""
Wait = Callable[[float], object]


def examine(place: Path | str, wait: Wait | None = None) -> Report:
    """Read the database at `place` (see `snapshot`), also while a service uses it; nothing is changed.

    What may have been so for a moment only is looked at again after a `wait`.

    Raises:
        StoreError: there is none, it is damaged, it cannot be read, or an older version of the service wrote it.
    """
    shared = isinstance(place, str)
    if isinstance(place, Path):
        examine_file(place)
    with snapshot(place) as tx:
        looked = _look(tx, shared=shared)
    if not looked.passing:
        return looked.report(())
    (wait or threading.Event().wait)(SECOND_LOOK_S)
    with snapshot(place) as tx:
        still = {(finding.check, finding.about) for finding in look_at_line(tx, shared=shared)}
    return looked.report(f for f in looked.passing if (f.check, f.about) in still)


def examine_store(tx: Tx) -> Report:
    """One look, on one instant of any store; not at the dispatcher's tickets."""
    looked = _look(tx, shared=False)
    return looked.report(looked.passing)


@record(frozen=True, slots=True)
class _Look:
    """What was seen at one instant. `passing`: what may be over a moment later."""

    books: Audit
    rounds: Rounds
    passing: list[Finding]

    def report(self, passing: Iterable[Finding]) -> Report:
        """All of it, with those of the passing findings that stay."""
        rounds, books = self.rounds, self.books
        rounds.findings.add(_broken(amount) for amount in books.broken)
        rounds.findings.add(passing)
        drifts = tuple(_sentence(drift) for drift in books.drifts)
        counts = books.account_count, books.line_count, rounds.tasks, rounds.events
        return Report(*counts, drifts, rounds.findings)


def _look(tx: Tx, *, shared: bool) -> _Look:
    version = tx.one("schema_version")
    if version is None or version["version"] != len(load_migrations()):
        message = (
            "The schema is not this version's: start the service first, it brings it up to date."
        )
        raise StoreUnavailable(message)
    books, passing = audit(tx), look_at_line(tx, shared=shared)
    rounds = make_rounds(tx, stalled=any(finding.check == UNCLAIMED for finding in passing))
    if not rounds.stalled:
        passing = [finding for finding in passing if finding.check != UNCLAIMED]
    return _Look(books, rounds, passing)


def _sentence(drift: Drift) -> str:
    where = f"{drift.scope.kind} {drift.scope.id}: {drift.amount.removesuffix('_nano')} is"
    if not drift.amount.endswith("_nano"):
        return f"{where} {drift.balance}, its lines sum up to {drift.summed}"
    balance, summed = format_usd(drift.balance), format_usd(drift.summed)
    return f"{where} {balance} USD, its lines sum up to {summed} USD"


def _broken(amount: Broken) -> Finding:
    what = f"{amount.column} is {amount.value}, which is no whole number of nano-dollars"
    return Finding("amount-broken", f"{amount.where}: {what}.")


def complaints(report: Report) -> list[str]:
    """A sentence a finding, with what to do."""
    said = list(report.drifts)
    if report.drifts:
        said.append(Finding("drift", "").advice)
    said += [f"{finding.sentence} {finding.advice}" for finding in report.findings.shown]
    said += [f"… and {count} more: {check}." for check, count in report.findings.left_out.items()]
    return said


def as_text(report: Report) -> str:
    """How much was looked at, for people."""
    found = sum(report.findings.counts.values())
    return (
        f"{len(report.drifts)} drifts in {report.accounts} accounts over {report.lines} lines\n"
        f"{found} findings in {report.tasks} tasks with {report.events} journal entries\n"
    )


def as_json(report: Report) -> dict[str, Any]:
    """All of it, for programs."""
    return {
        "accounts": report.accounts,
        "lines": report.lines,
        "tasks": report.tasks,
        "events": report.events,
        "drifts": list(report.drifts),
        "findings": [
            {"check": f.check, "sentence": f.sentence, "advice": f.advice}
            for f in report.findings.shown
        ],
        "counts": dict(report.findings.counts),
    }
