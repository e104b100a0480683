"""Lives of one task that ends in crashes: how they are brought about, and what they must have left."""

import asyncio
import os
import shutil
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGKILL
from typing import Any

import httpx

from app.llm.anthropic_line import REFERENCE_HEADER
from tests.acceptance.books import Books, Row, check_all, read_books
from tests.acceptance.client import bill_of, requests_of, set_faults
from tests.support.crashpoints import Job, as_line
from tests.support.process import ROOT, simulator

OPENING, CLOSING = "attempt_started", {"attempt_failed", "model_answered", "attempt_presumed"}


@dataclass(frozen=True)
class Scenario:
    """A scripted task, and how it ends whatever happens."""

    body: dict[str, Any]
    outcome: str
    steps: int
    """Answers it gets when nothing is killed, at least."""
    settings: dict[str, Any] = field(default_factory=dict)
    faults: tuple[dict[str, Any], ...] = ()
    first: str | None = None
    """A point to die at before the points are counted: those are then the points of a recovery."""


@dataclass(frozen=True)
class Life:
    """One process: how it ended, what it said, the points it came past."""

    code: int
    said: str
    points: list[str]


@dataclass(frozen=True)
class History:
    """All lives of one task, and both sides' books at each crash and at the end."""

    lives: list[Life]
    crashed: list[Books]
    books: Books
    requests: list[Row]


class Lane:
    """A fork server with an upstream of its own."""

    def __init__(
        self, folder: Path, upstream: httpx.AsyncClient, server: asyncio.subprocess.Process
    ) -> None:
        self._folder = folder
        self._upstream = upstream
        self._server = server
        self._count = 0

    async def history(self, scenario: Scenario, target: str | None) -> History:
        """Kill the scripted task's service at `target`, then let another one bring the task to its end."""
        self._count += 1
        folder = self._folder / str(self._count)
        folder.mkdir()
        assert (await self._upstream.post("/simulator/reset")).is_success
        await set_faults(self._upstream, *scenario.faults)
        lives, crashed = list[Life](), list[Books]()
        for kill in (scenario.first, target):
            if kill is not None:
                lives.append(await self._life(folder, scenario, len(lives), kill))
                assert lives[-1].code == -SIGKILL, lives[-1]
                assert lives[-1].points[-1] == kill, lives[-1]
                crashed.append(await self._look(folder))
        lives.append(await self._life(folder, scenario, len(lives), None))
        assert lives[-1].code == 0, lives[-1].said
        assert any(line.startswith("0 drifts in ") for line in lives[-1].said.splitlines())
        books = read_books(folder / "data" / "bursar.db", await bill_of(self._upstream))
        history = History(lives, crashed, books, await requests_of(self._upstream))
        shutil.rmtree(folder)
        return history

    async def _life(self, folder: Path, scenario: Scenario, number: int, kill: str | None) -> Life:
        trace = folder / f"life-{number}"
        url = str(self._upstream.base_url)
        job = Job(str(folder), url, scenario.body, scenario.settings, trace.name, kill)
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(as_line(job))
        code = await self._server.stdout.readline()
        assert code, "the fork server has ended"
        said = trace.with_suffix(".log").read_text()
        return Life(int(code), said, trace.read_text().splitlines())

    async def _look(self, folder: Path) -> Books:
        """The books at the crash. Of a copy: the next service must find the files as they were left."""
        copy = folder / "copy"
        shutil.copytree(folder / "data", copy)
        books = read_books(copy / "bursar.db", await bill_of(self._upstream))
        shutil.rmtree(copy)
        return books


@asynccontextmanager
async def lane(folder: Path) -> AsyncIterator[Lane]:
    """A lane whose processes end with the block; `folder` is there and empty."""
    async with simulator(folder) as upstream:
        server = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.support.crashpoints"),
            cwd=folder,
            env={"PATH": os.defpath, "PYTHONPATH": str(ROOT)},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            yield Lane(folder, upstream, server)
        finally:
            if server.returncode is None:
                server.kill()
            await server.wait()


@dataclass
class Story:
    """What the traces say must have become of each attempt (`step/attempt`)."""

    reserved: set[str] = field(default_factory=set)
    answered: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    lost: set[str] = field(default_factory=set)
    sent: set[str] = field(default_factory=set)


def told(lives: list[Life]) -> Story:
    """Read the traces: what was durable, what had left, and what was under way at each death."""
    story = Story()
    for life in lives:
        under_way = set[str]()
        for point in life.points:
            moment, _, what = point.partition(" #")[0].partition(": ")
            if moment == "in flight":
                story.sent.add(what)
            elif moment == "after commit":
                _committed(story, under_way, what)
        story.lost |= under_way
    return story


def _committed(story: Story, under_way: set[str], what: str) -> None:
    for event in what.split(" + "):
        name, _, attempt = event.partition(" ")
        if name == OPENING:
            story.reserved.add(attempt)
            under_way.add(attempt)
        elif name in CLOSING:
            under_way.discard(attempt)
            if name == "model_answered":
                story.answered.add(attempt)
            elif name == "attempt_failed":
                story.failed.add(attempt)


def check_points(life: Life) -> None:
    """Each attempt of the life passed every point there is; no commit and no send went unseen."""
    story = told([life])
    _same("sent", story.sent, story.reserved)
    _same("ended", story.answered | story.failed, story.reserved)
    for attempt in story.reserved:
        opening = [f"{when} commit: {OPENING} {attempt}" for when in ("before", "after")]
        sending = [f"{when}: {attempt}" for when in ("before send", "in flight", "received")]
        begun = life.points.index(opening[0])
        _same("points", life.points[begun : begun + 5], opening + sending)
    befores, afters = (
        [point.removeprefix(when) for point in life.points if point.startswith(f"{when} commit")]
        for when in ("before", "after")
    )
    _same("commits", befores, afters)


async def at_each(lanes: list[Lane], scenario: Scenario, points: list[str]) -> None:
    """A history for each point, checked, side by side on all lanes.

    Raises:
        AssertionError: the first thing found wrong, with the names of all points where something was.
    """
    waiting, wrong = iter(points), dict[str, AssertionError]()

    async def work(one: Lane) -> None:
        for point in waiting:
            try:
                check_history(await one.history(scenario, point), scenario)
            except AssertionError as error:
                wrong[point] = error

    await asyncio.gather(*(work(one) for one in lanes))
    for error in wrong.values():
        error.add_note(f"killed at: {', '.join(wrong)}")
        raise error


def check_crashed(books: Books) -> None:
    """At a crash: no limit passed, balances as their lines, nothing left that was not reserved for."""
    assert books.drift == []
    for account in books.accounts:
        held = account["spent_nano"] + account["surplus_nano"] + account["reserved_nano"]
        assert held <= account["limit_nano"], account
    for line in books.bill:
        attempt = line["client_reference"]
        covered = books.settlements.get(attempt) or books.reservations[attempt]
        assert line["nano"] <= covered["amount_nano"] + covered["surplus_nano"], line
        assert attempt not in books.releases


def check_history(history: History, scenario: Scenario) -> None:
    """The ledger is the bill where the answer was known, above it where it was lost; nothing bought twice."""
    books, story = history.books, told(history.lives)
    for crashed in history.crashed:
        check_crashed(crashed)
    check_all(books, set(books.tasks))
    _same("outcome", [task["outcome"] for task in books.tasks.values()], [scenario.outcome])
    _same("reserved", set(map(_number, books.reservations)), story.reserved)
    kinds = {_number(attempt): line["kind"] for attempt, line in books.settlements.items()}
    _same("confirmed", {a for a in kinds if kinds[a] == "confirmed"}, story.answered)
    _same("presumed", {a for a in kinds if kinds[a] == "presumed"}, story.lost)
    _same("released", set(map(_number, books.releases)), story.failed)
    _check_sends(history, story)


def _check_sends(history: History, story: Story) -> None:
    """The upstream was asked for what was reserved, once; a step is billed once more for each lost answer."""
    asked = [_number(request["headers"][REFERENCE_HEADER]) for request in history.requests]
    _same("asked", sorted(asked), sorted(story.sent))
    refused = {
        _number(request["headers"][REFERENCE_HEADER])
        for request in history.requests
        if request["status"] != 200
    }
    billed = {_number(line["client_reference"]) for line in history.books.bill}
    _same("billed", billed, story.sent - refused)
    lines = Counter(map(_step, billed))
    steps = set(map(_step, story.answered))
    lost = Counter(map(_step, story.lost & billed))
    _same("billed by step", lines, Counter(steps) + lost)


def _same(what: str, found: object, expected: object) -> None:
    """An assertion that shows its values: pytest rewrites only those of test modules."""
    assert found == expected, f"{what}: {found}; it must be {expected}"


def _number(attempt_id: str) -> str:
    return attempt_id.partition("/")[2]


def _step(number: str) -> str:
    return number.partition("/")[0]
