"""From task to task, in pages: their rows, journals and reservations side by side. Memory does not grow."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import orjson

from app.doctor.cases import Case, examine_case, gap_in
from app.doctor.findings import Finding, Findings
from app.doctor.line import STALL_US, look_at_workers
from app.store.port import Row, Tx

PAGE_LIMIT = 500
_SESSION = "session/"
"""How the journals of sessions begin."""


@dataclass(slots=True)
class Rounds:
    """What was looked at, and found."""

    tasks: int = 0
    events: int = 0
    findings: Findings = field(default_factory=Findings)
    stalled: bool = False
    """No run has begun or ended for long, as far as was looked for."""


def make_rounds(tx: Tx, *, stalled: bool = False) -> Rounds:
    """Look at every task and every journal of the store; with `stalled`, see whether that is true."""
    rounds, after = Rounds(stalled=stalled), ""
    while page := tx.all("checkup_tasks", after=after, limit=PAGE_LIMIT):
        rounds.tasks += len(page)
        upto = page[-1]["id"]
        _look(tx, rounds, {row["id"]: row for row in page}, after, upto)
        after = upto
    last = tx.one("checkup_last_subject")
    if last is not None and last["subject"] is not None:
        _look(tx, rounds, {}, after, last["subject"])
    for row in tx.all("checkup_answers", limit=PAGE_LIMIT):
        sentence = f"An idempotency key stands for the task {row['task_id']}, which does not exist."
        rounds.findings.add([Finding("answer-orphan", sentence)])
    rounds.findings.add(look_at_workers(tx))
    return rounds


def _look(tx: Tx, rounds: Rounds, tasks: dict[str, Row], after: str, upto: str) -> None:
    """Everything that lies above the key `after`, up to the key `upto`."""
    found = tx.all("checkup_reservations", after=after, upto=upto)
    reservations = {row["task_id"]: row for row in found}
    looked_at = set()
    for journal in _journals(tx, after, upto):
        rounds.events += journal["event_count"]
        task = tasks.get(journal["subject"])
        if task is None:
            rounds.findings.add(_alone(tx, journal))
        else:
            looked_at.add(task["id"])
            rounds.stalled = rounds.stalled and not _moved(tx, task, journal)
            claimed_by = _claimed_by(tx, task)
            case = Case(task, journal, reservations.get(task["id"]), tx.now_us, claimed_by)
            rounds.findings.add(examine_case(case))
    for task_id in tasks.keys() - looked_at:
        case = Case(tasks[task_id], None, reservations.get(task_id), tx.now_us)
        rounds.findings.add(examine_case(case))
    for row in tx.all("checkup_lines", after=after, upto=upto, limit=PAGE_LIMIT):
        sentence = f"The ledger has lines of a task {row['task_id']}, which does not exist."
        rounds.findings.add([Finding("ledger-orphan", sentence)])


def _journals(tx: Tx, after: str, upto: str) -> Iterator[Row]:
    while page := tx.all("checkup_journals", after=after, upto=upto, limit=PAGE_LIMIT):
        yield from page
        after = page[-1]["subject"]


def _moved(tx: Tx, task: Row, journal: Row) -> bool:
    """A run of it has begun or ended lately."""
    since_us = tx.now_us - STALL_US
    if not task["run_count"] or journal["last_at_us"] <= since_us:
        return False
    return tx.one("checkup_moves", subject=task["id"], since_us=since_us) is not None


def _claimed_by(tx: Tx, task: Row) -> str | None:
    """Who claimed what is being run, by its journal; None for everything else."""
    if task["lease_owner"] is None:
        return None
    claim = tx.one("checkup_claim", subject=task["id"], run=task["run_count"])
    return None if claim is None else str(orjson.loads(claim["data"]).get("worker"))


def _alone(tx: Tx, journal: Row) -> Iterator[Finding]:
    """A journal without a task: of a session, of a task that is being taken away, or of nothing."""
    subject = journal["subject"]
    if not subject.startswith(_SESSION):
        pruned = tx.one("half_pruned_task", id=subject)
        if pruned is not None and pruned["events_left"] == journal["last_seq"]:
            return
        yield Finding("journal-orphan", f"There is a journal of {subject}, which does not exist.")
    elif (gap := gap_in(journal)) is not None:
        yield Finding("journal-gap", f"The journal of {subject} {gap}.")
