"""GET /tasks/{id}/events: the journal in pages, and live."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from app.domain.clock import US_PER_S, SystemClock, rfc3339
from app.domain.task import Subject
from app.journal.events import EVENTS
from app.journal.feed import Feed
from app.journal.journal import Recorded
from app.store.port import Store
from tests.support.service import HANG, Running

TOOL_TASK = 'Work. [[sim {"steps": 2, "parallel": 2}]]'
TOOLS = ["calculator", "text_stats"]


async def _worked(bursar: Running) -> dict[str, Any]:
    return await bursar.run(TOOL_TASK, tools=TOOLS)


class TestPages:
    """JSON pages."""

    async def test_numbers(self, bursar: Running) -> None:
        """Events are numbered 1, 2, 3, … from acceptance to the end; every one is of a known kind."""
        events = await bursar.events((await _worked(bursar))["id"])
        assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
        assert events[0]["type"] == "task_accepted"
        assert events[-1]["type"] == "task_finished"
        assert {event["type"] for event in events} < set(EVENTS)
        assert events[0]["run"] == 0
        assert {event["run"] for event in events[1:]} == {1}
        assert [event["at"] for event in events] == sorted(event["at"] for event in events)

    async def test_turning(self, bursar: Running) -> None:
        """`next_after` leads through all pages; behind the last there is an empty one."""
        task = await _worked(bursar)
        events, after = await bursar.events(task["id"]), 0
        found: list[dict[str, Any]] = []
        while True:
            params = {"after": after, "limit": 3}
            page = (await bursar.client.get(task["links"]["events"], params=params)).json()
            if not page["events"]:
                break
            assert len(page["events"]) <= 3
            found += page["events"]
            after = page["next_after"]
        assert found == events
        assert page["next_after"] == len(events)

    async def test_money_and_keys_only(self, bursar: Running) -> None:
        """Amounts are in USD, and of a tool's input only the keys are told: neither text nor input."""
        task = await bursar.run(
            'A cat\'s secret. [[sim {"steps": 1, "inputs": [{"text": "hidden words"}]}]]',
            tools=["text_stats"],
            system="Hidden rules.",
        )
        events = await bursar.events(task["id"])
        shown = str(events)
        for text in ("secret", "hidden words", "Hidden rules", "_nano", "_us'"):
            assert text not in shown
        (asked,) = [e["data"] for e in events if e["type"] == "tool_started"]
        assert asked["input_keys"] == ["text"]
        assert events[-1]["data"]["cost_usd"] == task["cost_usd"]

    @pytest.mark.before_the_store
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("after", "-1"),
            ("after", "x"),
            ("after", str(2**31)),
            ("limit", "0"),
            ("limit", "1001"),
        ],
    )
    async def test_bounds(self, bursar: Running, name: str, value: str) -> None:
        """Parameters out of bounds are a 422 that names them."""
        task = await bursar.submit()
        answer = await bursar.client.get(task["links"]["events"], params={name: value})
        assert answer.status_code == 422
        assert [error["field"] for error in answer.json()["errors"]] == [name]


class TestStream:
    """Server-sent events."""

    async def test_the_same_events(self, bursar: Running) -> None:
        """Ids are the journal's numbers, and the data are the page's entries."""
        task = await _worked(bursar)
        async with bursar.stream(task["links"]["events"]) as stream:
            events = await stream.rest()
        assert stream.status == 200
        assert stream.headers["content-type"].startswith("text/event-stream")
        assert stream.headers["cache-control"] == "no-cache"
        pages = await bursar.events(task["id"])
        assert [event["data"] for event in events] == pages
        assert [event["id"] for event in events] == [entry["seq"] for entry in pages]
        assert [event["event"] for event in events] == [entry["type"] for entry in pages]

    async def test_live(self, bursar: Running) -> None:
        """What happens is told while it happens; the stream ends with the task."""
        bursar.script(HANG)
        task = await bursar.submit()
        async with bursar.stream(task["links"]["events"]) as stream:
            told: list[str] = []
            while not told or told[-1] != "attempt_started":
                event = await stream.event()
                assert event is not None
                told.append(event["event"])
            await bursar.client.post(task["links"]["cancel"])
            rest = await stream.rest()
        assert told == ["task_accepted", "task_claimed", "attempt_started"]
        assert rest[0]["event"] == "cancel_requested"
        assert rest[-1]["event"] == "task_finished"

    @pytest.mark.parametrize("how", ["header", "parameter"])
    async def test_resuming(self, bursar: Running, how: str) -> None:
        """At every offset it goes on exactly after that event; after the last there is a 204."""
        task = await _worked(bursar)
        path, count = task["links"]["events"], len(await bursar.events(task["id"]))
        for after in range(count):
            headers = {"last_event_id": str(after)} if how == "header" else {}
            query = "" if how == "header" else f"?after={after}"
            async with bursar.stream(path + query, **headers) as stream:
                assert [event["id"] for event in await stream.rest()] == list(
                    range(after + 1, count + 1)
                )
        for after in (count, count + 1, 2**31 - 1):
            async with bursar.stream(path, last_event_id=str(after)) as stream:
                assert stream.status == 204

    async def test_resuming_a_live_one(self, bursar: Running) -> None:
        """A client that was cut off gets what it missed, then what comes; nothing twice."""
        bursar.script(HANG)
        task = await bursar.submit()
        path = task["links"]["events"]
        async with bursar.stream(path) as stream:
            first = await stream.event()
        assert first is not None
        await bursar.saw(task["id"], "attempt_started")
        async with bursar.stream(path, last_event_id=str(first["id"])) as stream:
            await bursar.client.post(task["links"]["cancel"])
            rest = await stream.rest()
        ids = [first["id"]] + [event["id"] for event in rest]
        assert ids == list(range(1, len(await bursar.events(task["id"])) + 1))

    async def test_the_header_goes_first(self, bursar: Running) -> None:
        """An EventSource reconnects to its first address: its header is newer than the address."""
        task = await bursar.run()
        async with bursar.stream(task["links"]["events"] + "?after=1", last_event_id="3") as stream:
            assert (await stream.rest())[0]["id"] == 4

    @pytest.mark.parametrize("last", ["", "x", "-1", "1.0", " 1", "²", str(2**31), "9" * 50])
    async def test_bad_ids(self, bursar: Running, last: str) -> None:
        """An id that no event can have is a 400."""
        task = await bursar.submit()
        answer = await bursar.client.get(
            task["links"]["events"],
            headers=[(b"accept", b"text/event-stream"), (b"last-event-id", last.encode())],
        )
        assert (answer.status_code, answer.json()["type"]) == (
            400,
            "urn:bursar:problem:bad-request",
        )

    async def test_ids_to_come(self, bursar: Running) -> None:
        """An id beyond a running task's events is a 400: such a stream might never end."""
        bursar.script(HANG)
        task = await bursar.submit()
        await bursar.saw(task["id"], "attempt_started")
        for last, status in (("3", 200), ("4", 400), ("9999", 400)):
            async with bursar.stream(task["links"]["events"], last_event_id=last) as stream:
                assert stream.status == status

    async def test_unknown_task(self, bursar: Running) -> None:
        """There is no stream of a task that is not."""
        answer = await bursar.client.get(
            "/tasks/task_none/events", headers={"accept": "text/event-stream"}
        )
        assert answer.status_code == 404

    async def test_pings(self, bursar: Running) -> None:
        """While nothing happens, comments keep the connection alive."""
        bursar.script(HANG)
        task = await bursar.submit()
        await bursar.saw(task["id"], "attempt_started")
        bursar.service.services.feed = _Impatient(bursar.service.services.feed)
        async with bursar.stream(task["links"]["events"], last_event_id="3") as stream:
            assert await stream.message() == ": ping"
            assert await stream.message() == ": ping"

    async def test_a_stop_ends_it(self, bursar: Running) -> None:
        """A stopping service does not wait for its watchers."""
        bursar.script(HANG)
        task = await bursar.submit()
        await bursar.saw(task["id"], "attempt_started")
        async with bursar.stream(task["links"]["events"]) as stream:
            assert await stream.event() is not None
            await bursar.service.drain()
            await stream.rest()
        assert (await bursar.client.get(task["links"]["self"])).json()["status"] == "queued"

    async def test_it_ends_also_when_the_budget_was_set_after_the_end(
        self, bursar: Running
    ) -> None:
        """Sub-tasks draw on the budget of a task that has ended: setting it is an event, and no new life."""
        later = rfc3339(SystemClock().now_us() + 3_600 * US_PER_S)
        parent = await bursar.submit(run_at=later)
        await bursar.submit(run_at=later, parent_id=parent["id"])
        await bursar.client.post(f"/tasks/{parent['id']}/cancel")
        put = await bursar.client.put(f"/tasks/{parent['id']}/budget", json={"budget_usd": 2})
        assert put.status_code == 200
        kinds = [event["type"] for event in await bursar.events(parent["id"])]
        assert kinds[-2:] == ["task_finished", "task_budget_set"]
        async with bursar.stream(parent["links"]["events"]) as stream:
            assert [event["event"] for event in await stream.rest()] == kinds
        seen = str(len(kinds) - 1)  # the end was seen, what came after it was not
        async with bursar.stream(parent["links"]["events"], last_event_id=seen) as stream:
            assert [event["event"] for event in await stream.rest()] == kinds[-1:]

    async def test_clients_are_counted(self, bursar: Running) -> None:
        """The gauge knows who watches, and forgets who hung up."""
        bursar.script(HANG)
        task = await bursar.submit()
        async with bursar.stream(task["links"]["events"]) as stream:
            await stream.event()
            assert "bursar_sse_clients 1.0" in (await bursar.client.get("/metrics")).text
        assert "bursar_sse_clients 0.0" in (await bursar.client.get("/metrics")).text


class _Impatient(Feed):
    """The real feed, asked to say sooner that nothing happens."""

    def __init__(self, inner: Feed) -> None:
        super().__init__()
        self._inner = inner

    def follow(
        self,
        store: Store,
        subject: Subject,
        *,
        after: int = 0,
        idle_s: float = 15.0,
        ended: bool = False,
    ) -> AsyncIterator[list[Recorded]]:
        return self._inner.follow(store, subject, after=after, idle_s=0.01, ended=ended)

    def stop(self) -> None:
        self._inner.stop()
