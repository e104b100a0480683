"""What must hold of a stopped service's database, and between it and the simulator's bill."""

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
import psycopg
from psycopg.rows import dict_row

from app.budget.audit import Drift, audit
from app.domain.clock import US_PER_S
from app.domain.task import Outcome, TaskStatus
from app.store.port import Tx
from app.store.snapshot import snapshot
from app.store.sqlite_tx import SqliteTx

Row = dict[str, Any]


@contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """The database of a service that has stopped."""
    with closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        yield connection


def rows(connection: sqlite3.Connection, statement: str) -> list[Row]:
    """Every row as a dictionary."""
    return [dict(row) for row in connection.execute(statement)]


@dataclass(frozen=True)
class Books:
    """Both sides' records of one run."""

    accounts: list[Row]
    settlements: dict[str, Row]
    """By attempt id."""
    releases: set[str]
    reservations: dict[str, Row]
    tasks: dict[str, Row]
    events: dict[str, list[Row]]
    """By task, in order; `data` is parsed."""
    drift: list[Drift]
    bill: list[Row]

    @property
    def ended(self) -> set[str]:
        """Attempts whose reservation has ended."""
        return set(self.settlements) | self.releases


LINES = "SELECT *, task_id || '/' || step || '/' || attempt AS attempt_id FROM ledger_lines"


def read_books(place: Path | str, bill: dict[str, Any]) -> Books:
    """Read the database's file, or PostgreSQL, directly, and the bill as the simulator's endpoint shows it."""
    if isinstance(place, str):
        with (
            psycopg.connect(place, row_factory=dict_row) as postgres,
            snapshot(place) as tx,
        ):
            return _read(lambda query: postgres.execute(query.encode()).fetchall(), tx, bill)
    with opened(place) as connection:
        tx = SqliteTx(connection.cursor(), 0)
        return _read(lambda query: rows(connection, query), tx, bill)


def _read(look: Callable[[str], list[Row]], tx: Tx, bill: dict[str, Any]) -> Books:
    lines = look(LINES)
    events: dict[str, list[Row]] = defaultdict(list)
    for row in look("SELECT * FROM events ORDER BY subject, seq"):
        if not row["subject"].startswith("session/"):
            events[row["subject"]].append({**row, "data": orjson.loads(row["data"])})
    assert bill["lines_kept"] == bill["total"]["lines"]
    return Books(
        accounts=look("SELECT * FROM accounts"),
        settlements={r["attempt_id"]: r for r in lines if r["entry"] == "settlement"},
        releases={r["attempt_id"] for r in lines if r["entry"] == "release"},
        reservations={r["attempt_id"]: r for r in lines if r["entry"] == "reservation"},
        tasks={row["id"]: row for row in look("SELECT * FROM tasks")},
        events=events,
        drift=list(audit(tx).drifts),
        bill=[{**line, "client_reference": _attempt_of(line)} for line in bill["lines"]],
    )


def _attempt_of(line: Row) -> str:
    """The attempt that a line of the bill is for; a batch names it in letters of its own."""
    reference: str = line["client_reference"]
    return reference if "/" in reference else "/".join(reference.rsplit("-", 2))


def check_all(books: Books, accepted: set[str]) -> None:
    """Every promise about money, tasks and events at once."""
    check_ledger(books)
    check_bill(books)
    check_budgets(books)
    check_tasks(books, accepted)
    check_steps(books)


def check_ledger(books: Books) -> None:
    """Balances are sums of lines, nothing is held any more, each reservation has ended once."""
    assert books.drift == []
    assert [a for a in books.accounts if a["reserved_nano"]] == []
    assert set(books.reservations) == books.ended
    assert not set(books.settlements) & books.releases


def check_bill(books: Books) -> None:
    """The bill line by line: equal where confirmed, at most the booked amount everywhere else."""
    billed = {line["client_reference"]: line["nano"] for line in books.bill}
    assert len(billed) == len(books.bill), "a reference reached the upstream twice"
    for attempt, line in books.settlements.items():
        booked = _booked(line)
        if line["kind"] == "confirmed":
            assert booked == billed.get(attempt, 0), line
        else:
            assert booked >= billed.get(attempt, 0), line
    assert set(billed) <= set(books.settlements), "billed, and not in the ledger"
    assert sum(billed.values()) <= sum(map(_booked, books.settlements.values()))


def check_budgets(books: Books) -> None:
    """Neither the ledger nor the bill exceeds the budget of any task or session."""
    billed: Counter[tuple[str, str]] = Counter()
    for line in books.bill:
        task = books.tasks[line["client_reference"].split("/")[0]]
        billed["task", task["id"]] += line["nano"]
        billed["session", f"{task['owner']}/{task['session_id']}"] += line["nano"]
    for account in books.accounts:
        booked = account["spent_nano"] + account["surplus_nano"]
        assert booked <= account["limit_nano"], account
        assert billed[account["scope"], account["id"]] <= booked, account


def check_tasks(books: Books, accepted: set[str]) -> None:
    """Every accepted task is there and ended once a retry, with a typed outcome; its events have no gap."""
    assert accepted <= set(books.tasks)
    for task_id, task in books.tasks.items():
        outcome = Outcome(task["outcome"])
        assert outcome.status == TaskStatus(task["status"])
        events = books.events[task_id]
        assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
        kinds = Counter(event["type"] for event in events)
        ends = 1 + kinds["task_retried"]
        assert (kinds["task_accepted"], kinds["task_finished"]) == (1, ends), task_id
        assert (events[0]["type"], events[-1]["type"]) == ("task_accepted", "task_finished")
        assert events[-1]["data"]["outcome"] == outcome
        assert kinds["model_answered"] == task["step_count"]


def check_steps(books: Books) -> None:
    """A recorded answer is never asked for again; a second attempt follows a first that ended."""
    for task_id, events in books.events.items():
        answered: set[int] = set()
        failed: set[tuple[int, int]] = set()
        for event in events:
            step, attempt = event["data"].get("step"), event["data"].get("attempt")
            match event["type"]:
                case "attempt_started":
                    assert step not in answered, f"{task_id} asks step {step} again"
                    assert step == len(answered) + 1
                    assert attempt == 1 or (step, attempt - 1) in failed
                case "attempt_failed" | "attempt_presumed":
                    failed.add((step, attempt))
                case "model_answered":
                    answered.add(step)
                case _:
                    pass


def check_runs(books: Books) -> None:
    """No run wrote anything once the next one had claimed its task; only a presumed line may have been confirmed."""
    claims = {
        task_id: [(e["run"], e["at_us"]) for e in events if e["type"] == "task_claimed"]
        for task_id, events in books.events.items()
    }
    for task_id, events in books.events.items():
        writers = [event["run"] for event in events]
        assert writers == sorted(writers), f"a stale run wrote in the journal of {task_id}"
        runs = [run for run, _ in claims[task_id]]
        assert runs == list(range(1, len(runs) + 1)), f"{task_id} was claimed twice for a run"
    for line in (*books.reservations.values(), *books.settlements.values()):
        later_us = [at_us for run, at_us in claims[line["task_id"]] if run > line["run"]]
        assert line["at_us"] <= min(later_us, default=line["at_us"]), f"a stale run wrote {line}"


def check_requests(books: Books, requests: list[Row]) -> None:
    """Of all that was sent: nothing before its reservation was written, nothing twice."""
    for request in requests:
        line = books.reservations.get(request["headers"]["x-bursar-attempt"])
        assert line is not None, f"a call left without a written reservation: {request}"
        at_us = datetime.fromisoformat(request["at"]).timestamp() * US_PER_S
        assert line["at_us"] <= at_us + 1_000, "a call left before its reservation"
    references = Counter(request["headers"]["x-bursar-attempt"] for request in requests)
    assert max(references.values(), default=1) == 1, "a reference was sent twice"


def _booked(line: Row) -> int:
    booked: int = line["amount_nano"] + line["surplus_nano"]
    return booked
