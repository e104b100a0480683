"""GET /usage: every number a sum over settlements, whatever they are grouped by; of one owner and one time."""

import asyncio
import csv
import io
import random
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from app.api.usage import GROUPS_LIMIT, GroupBy
from app.budget.keys import create_key
from app.domain.clock import rfc3339
from app.domain.money import format_usd, usd_from_nano
from app.domain.period import DAY_US
from app.domain.task import LOCAL_OWNER
from app.store.port import Tx
from app.store.queries import load_queries
from tests.support.clock import START_US, StillClock, yielded
from tests.support.service import Running, started

METERS = ("input", "output", "cache_read", "cache_write_5m", "cache_write_1h")
KINDS = ("confirmed", "estimated", "presumed")
ALWAYS = {"from": "1970-01-01", "to": "9999-12-31"}
COLUMN = {"model": "model", "session": "session_id", "key": "key_id", "agent": "agent"}
Line = dict[str, Any]


async def _usage(bursar: Running, **query: str) -> dict[str, Any]:
    answer = await bursar.client.get("/usage", params=query)
    assert answer.status_code == 200, answer.text
    report: dict[str, Any] = answer.json()
    return report


def _line(number: int, **given: Any) -> Line:
    """A settlement as a row of the ledger."""
    fields: Line = {f"{meter}_tokens": 1 for meter in METERS}
    fields |= {
        "task_id": f"task_{number}",
        "step": 1,
        "attempt": 1,
        "run": 1,
        "ended": 1,
        "entry": "settlement",
        "kind": "confirmed",
        "owner": LOCAL_OWNER,
        "session_id": "s",
        "model": "m",
        "price_row": "p",
        "key_id": "",
        "agent": "",
        "bound": "proved",
        "scopes": "[]",
        "amount_nano": 7,
        "surplus_nano": 0,
        "web_searches": 0,
        "usage_json": None,
        "cache_saved_nano": 0,
        "at_us": START_US,
    }
    return {**fields, **given}


async def _write(bursar: Running, lines: list[Line]) -> None:
    def op(tx: Tx) -> None:
        for line in lines:
            tx.run("add_line", **line)

    await bursar.service.services.store.write(op)


def _history(seed: int) -> list[Line]:
    """Lines of all kinds and entries, of two owners, over some days."""
    dice = random.Random(seed)  # noqa: S311  (a history, not a secret)
    lines = []
    for number in range(200):
        entry = dice.choices(["settlement", "reservation", "release"], [8, 1, 1])[0]
        lines.append(
            _line(
                number,
                entry=entry,
                ended=int(entry != "reservation"),
                kind=dice.choice(KINDS) if entry == "settlement" else None,
                owner=dice.choice([LOCAL_OWNER, LOCAL_OWNER, "somebody"]),
                session_id=dice.choice(["a", "b", "c"]),
                model=dice.choice(["m", "n"]),
                key_id=dice.choice(["", "key_1", "key_2"]),
                agent=dice.choice(["", "writer", "reader"]),
                amount_nano=dice.randrange(10**12),
                surplus_nano=dice.choice([0, dice.randrange(10**6)]),
                web_searches=dice.randrange(3),
                at_us=START_US + dice.randrange(-5 * DAY_US, 5 * DAY_US),
                **{f"{meter}_tokens": dice.randrange(10**6) for meter in METERS},
            )
        )
    return lines


def _expected(lines: list[Line]) -> dict[str, Any]:
    """The sums of settlements, added up here and in another way than the service does."""

    def nano(kinds: tuple[str, ...]) -> int:
        return sum(li["amount_nano"] + li["surplus_nano"] for li in lines if li["kind"] in kinds)

    return {
        "calls": len(lines),
        "spent_usd": usd_from_nano(nano(KINDS)),
        "cost": {f"{kind}_usd": usd_from_nano(nano((kind,))) for kind in KINDS},
        "tokens": {meter: sum(line[f"{meter}_tokens"] for line in lines) for meter in METERS},
        "web_searches": sum(line["web_searches"] for line in lines),
    }


def _key(line: Line, group_by: str) -> str | None:
    return rfc3339(line["at_us"])[:10] if group_by == "day" else line[COLUMN[group_by]] or None


async def test_every_view_of_a_service_at_work(bursar: Running) -> None:
    """Each grouping, the sessions' usage and the ledger's lines say the same."""
    await bursar.run("One", session_id="a", agent="writer", complexity="simple")
    await bursar.run("Two", session_id="a", agent="reader", complexity="complex")
    await bursar.run('[[sim {"steps": 2}]]', session_id="b", tools=["calculator"])
    lines = bursar.rows("SELECT * FROM ledger_lines WHERE entry = 'settlement'")
    expected = _expected(lines)
    assert expected["calls"] >= 5
    for group_by in GroupBy:
        report = await _usage(bursar, group_by=group_by)
        assert report["totals"] == expected
        assert report["group_by"] == group_by
        for group in report["groups"]:
            members = [line for line in lines if _key(line, group_by) == group["key"]]
            assert group == {"key": group["key"], **_expected(members)}
    sessions = (await _usage(bursar, group_by="session"))["groups"]
    assert {group["key"] for group in sessions} == {"a", "b"}
    for group in sessions:
        used = (await bursar.client.get(f"/sessions/{group['key']}/usage")).json()
        assert {name: used[name] for name in ("calls", "spent_usd", "cost", "tokens")} == {
            name: group[name] for name in ("calls", "spent_usd", "cost", "tokens")
        }


@pytest.mark.parametrize("seed", range(3))
async def test_any_history(bursar: Running, seed: int) -> None:
    """Groups are what their lines sum up to, all kinds apart, and no line is in two or in none."""
    history = _history(seed)
    await _write(bursar, history)
    mine = [x for x in history if x["owner"] == LOCAL_OWNER and x["entry"] == "settlement"]
    for group_by in GroupBy:
        report = await _usage(bursar, group_by=group_by, **ALWAYS)
        keys = {_key(line, group_by) for line in mine}
        by_key = {group.pop("key"): group for group in report["groups"]}
        assert len(by_key) == len(report["groups"])
        assert by_key == {
            key: _expected([line for line in mine if _key(line, group_by) == key]) for key in keys
        }
        assert report["totals"] == _expected(mine)


@pytest.mark.parametrize("seed", range(3))
async def test_times_that_meet_miss_nothing(bursar: Running, seed: int) -> None:
    """A line at the border is in the later part only, to the microsecond."""
    history = _history(seed)
    await _write(bursar, history)
    mine = [x for x in history if x["owner"] == LOCAL_OWNER and x["entry"] == "settlement"]
    border_us = sorted(line["at_us"] for line in mine)[len(mine) // 2]
    before = await _usage(bursar, **{**ALWAYS, "to": rfc3339(border_us)})
    after = await _usage(bursar, **{**ALWAYS, "from": rfc3339(border_us)})
    assert before["totals"] == _expected([li for li in mine if li["at_us"] < border_us])
    assert after["totals"] == _expected([li for li in mine if li["at_us"] >= border_us])
    assert before["to"] == after["from"] == rfc3339(border_us)


async def test_days_are_those_of_utc(bursar: Running) -> None:
    """Midnight begins a day; days come in their order, and those without a call are left out."""
    midnight_us = START_US - START_US % DAY_US
    instants = (midnight_us + DAY_US - 1, midnight_us - 1, midnight_us, midnight_us + 2 * DAY_US)
    await _write(bursar, [_line(number, at_us=at_us) for number, at_us in enumerate(instants)])
    report = await _usage(bursar, group_by="day", **ALWAYS)
    assert [(group["key"], group["calls"]) for group in report["groups"]] == [
        ("2026-11-21", 1),
        ("2026-11-22", 2),
        ("2026-11-24", 1),
    ]
    named = await _usage(bursar, **{"group_by": "day", "from": "2026-11-22", "to": "2026-11-23"})
    assert [group["key"] for group in named["groups"]] == ["2026-11-22"]


async def test_the_dearest_first(bursar: Running) -> None:
    """By money, then by name."""
    costs = (("b", 5), ("c", 9), ("a", 5))
    await _write(bursar, [_line(n, model=m, amount_nano=cost) for n, (m, cost) in enumerate(costs)])
    groups = (await _usage(bursar, **ALWAYS))["groups"]
    assert [group["key"] for group in groups] == ["c", "a", "b"]


async def test_thirty_days_unless_told(tmp_path: Path) -> None:
    """Without `to` it is now, without `from` thirty days before `to`."""
    clock = StillClock()
    async with started(tmp_path, clock=clock) as bursar:
        edge_us = START_US - 30 * DAY_US
        await _write(bursar, [_line(1, at_us=edge_us - 1), _line(2, at_us=edge_us), _line(3)])
        report = await _usage(bursar)
        assert (report["from"], report["to"]) == (rfc3339(edge_us), rfc3339(START_US))
        assert report["totals"]["calls"] == 1
        clock.move(0.000_001)
        assert (await _usage(bursar))["totals"]["calls"] == 1
        earlier = await _usage(bursar, to=rfc3339(edge_us))
        assert earlier["from"] == rfc3339(edge_us - 30 * DAY_US)
        assert earlier["totals"]["calls"] == 1


async def test_nothing_yet(bursar: Running) -> None:
    """No groups, and totals of zero."""
    report = await _usage(bursar)
    assert report["groups"] == []
    assert report["totals"] == _expected([])


async def test_only_the_callers_own(bursar: Running) -> None:
    """Keys of one owner see each other's usage, by key; another owner's key sees none of it."""

    def op(tx: Tx) -> list[tuple[str, str]]:
        return [create_key(tx, owner, owner) for owner in ("ann", "ann", "bob")]

    keys = await bursar.service.services.store.write(op)
    headers = [{"authorization": f"Bearer {text}"} for _, text in keys]
    for header in headers:
        accepted = await bursar.client.post("/tasks", json={"task": "Hello"}, headers=header)
        path = f"/tasks/{accepted.json()['id']}"
        await bursar.client.get(path, headers={**header, "prefer": "wait=30"}, timeout=35)
    for header, own in ((headers[0], keys[:2]), (headers[2], keys[2:])):
        query = {"group_by": "key"}
        report = (await bursar.client.get("/usage", params=query, headers=header)).json()
        assert {group["key"] for group in report["groups"]} == {key_id for key_id, _ in own}
        assert report["totals"]["calls"] == len(own)
    assert (await bursar.client.get("/usage")).status_code == 401


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"from": "yesterday"}, "from"),
        ({"to": "2026-11-22T12:00:00"}, "to"),
        ({"to": "2026-02-30"}, "to"),
        ({"from": ""}, "from"),
        ({"from": "2026-11-22", "to": "2026-11-22"}, "from"),
        ({"from": "2026-11-23", "to": "2026-11-22"}, "from"),
        ({"from": "9999-01-01"}, "from"),
        ({"to": "1970-01-01"}, "from"),
        ({"to": "0001-01-01"}, "to"),
        ({"group_by": "owner"}, "group_by"),
        ({"format": "xml"}, "format"),
    ],
)
async def test_nonsense(bursar: Running, query: dict[str, str], field: str) -> None:
    """What cannot be meant is refused, and the problem names the parameter."""
    answer = await bursar.client.get("/usage", params=query)
    assert answer.status_code == 422
    problem = answer.json()
    assert problem["type"] == "urn:bursar:problem:invalid-request"
    assert [error["field"] for error in problem["errors"]] == [field]


async def test_more_groups_than_one_answer_has(bursar: Running) -> None:
    """At the limit everything is told; above it nothing, with a type of its own."""
    lines = [_line(number, session_id=f"s{number}") for number in range(GROUPS_LIMIT)]
    await _write(bursar, lines)
    report = await _usage(bursar, group_by="session", **ALWAYS)
    assert len(report["groups"]) == report["totals"]["calls"] == GROUPS_LIMIT
    await _write(bursar, [_line(GROUPS_LIMIT, session_id="one more")])
    for shown_as in ("json", "csv"):
        query = {"group_by": "session", "format": shown_as, **ALWAYS}
        answer = await bursar.client.get("/usage", params=query)
        assert answer.status_code == 422
        assert answer.json()["type"] == "urn:bursar:problem:too-many-groups"
    assert (await _usage(bursar, **ALWAYS))["totals"]["calls"] == GROUPS_LIMIT + 1


@pytest.mark.parametrize("group_by", list(GroupBy))
async def test_csv_says_the_same(bursar: Running, group_by: str) -> None:
    """One row a group, in the same order, with the same numbers; money exact to the nano-dollar."""
    await _write(bursar, _history(7))
    query = {"group_by": group_by, **ALWAYS}
    report = await _usage(bursar, **query)
    answer = await bursar.client.get("/usage", params={**query, "format": "csv"})
    rows = list(csv.DictReader(io.StringIO(answer.text, newline="")))
    assert len(rows) == len(report["groups"])
    for row, group in zip(rows, report["groups"], strict=True):
        money = {"spent": group["spent_usd"]} | {k: group["cost"][f"{k}_usd"] for k in KINDS}
        assert row == {
            "key": group["key"] or "",
            "calls": str(group["calls"]),
            **{f"{name}_usd": format_usd(round(usd * 1e9)) for name, usd in money.items()},
            **{f"{meter}_tokens": str(group["tokens"][meter]) for meter in METERS},
            "web_searches": str(group["web_searches"]),
        }


@pytest.mark.parametrize(
    ("query", "accept", "media"),
    [
        ({}, "*/*", "application/json"),
        ({}, "text/csv", "text/csv"),
        ({}, "Text/CSV; q=0.9, */*; q=0.1", "text/csv"),
        ({"format": "csv"}, "application/json", "text/csv"),
        ({"format": "json"}, "text/csv", "application/json"),
    ],
)
async def test_which_form(bursar: Running, query: dict[str, str], accept: str, media: str) -> None:
    """The parameter goes before the header; a browser may not guess another type, and saves a file."""
    answer = await bursar.client.get("/usage", params=query, headers={"accept": accept})
    assert answer.headers["content-type"].partition(";")[0] == media
    if media == "text/csv":
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-disposition"] == 'attachment; filename="usage.csv"'


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1"])
async def test_clients_cannot_name_a_formula(bursar: Running, name: str) -> None:
    """Sessions, agents and models with such names are refused where they come from."""
    for field in ("session_id", "agent", "model"):
        answer = await bursar.client.post("/tasks", json={"task": "Hello", field: name})
        assert answer.status_code == 422, field


async def test_names_that_only_look_like_one(bursar: Running) -> None:
    """Signs inside a name are no formula: it comes out of the CSV as it went in."""
    await bursar.run(session_id="a@b-c:1", agent="team/x@y-z")
    for group_by, name in (("session", "a@b-c:1"), ("agent", "team/x@y-z")):
        answer = await bursar.client.get("/usage", params={"group_by": group_by, "format": "csv"})
        assert answer.text.splitlines()[1].startswith(f"{name},1,")


async def test_a_formula_in_the_ledger_is_defused(bursar: Running) -> None:
    """However it came there: in CSV it is text; in JSON, where it does no harm, it is as it is."""
    formula = '=HYPERLINK("http://example.test","x")'
    await _write(bursar, [_line(1, agent=formula)])
    query = {"group_by": "agent", **ALWAYS}
    assert (await _usage(bursar, **query))["groups"][0]["key"] == formula
    answer = await bursar.client.get("/usage", params={**query, "format": "csv"})
    (_, row) = csv.reader(io.StringIO(answer.text, newline=""))
    assert row[0] == f"'{formula}"


@pytest.mark.parametrize("group_by", list(GroupBy))
async def test_found_by_owner_and_time(bursar: Running, group_by: str) -> None:
    """Every view reads the settlements of its time only, however long the history is."""
    params = {"owner": "local", "from_us": 0, "to_us": 1, "limit": 1}
    statement = "EXPLAIN QUERY PLAN " + load_queries()[f"usage_by_{group_by}"]
    with closing(sqlite3.connect(bursar.data_dir / "bursar.db")) as connection:
        plan = [row[3] for row in connection.execute(statement, params)]
    assert "ledger_by_time (owner=? AND at_us>? AND at_us<?)" in plan[0]


async def test_one_report_at_a_time(bursar: Running) -> None:
    """While one is being made, another waits; whoever asks for a task does not."""
    task = await bursar.run("Hello")
    async with bursar.service.services.reports:
        waiting = asyncio.create_task(_usage(bursar))
        assert (await bursar.client.get(f"/tasks/{task['id']}")).status_code == 200
        await yielded(50)
        assert not waiting.done()
    assert (await waiting)["totals"]["calls"] == 1
