"""What a review of batches found: each once cost money, time, or other people's tasks."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import httpx2
import orjson
import pytest

from app.domain.task import Subject
from app.journal.call_events import AttemptStarted
from app.llm.anthropic_batches import AnthropicBatches
from app.llm.batching.items import Item, cost_of
from app.llm.batching.port import ItemResult, Standing
from app.llm.batching.results import read_result
from app.llm.provider import ModelFailure, Phase
from app.simulator.core import Simulator
from app.store.sqlite import SqliteStore
from tests.support.batching import DirectBatches, Fuse, Process
from tests.support.clock import FakeClock
from tests.support.desk import prices
from tests.support.provider import HAIKU
from tests.support.seeding import drift, lines_of
from tests.unit.worker.test_batches import LIMITS, Office

DEARER = "claude-opus-4-8"
SPEND_CAP = "enforced_spend_limit_reached"
FINDS = 50


@pytest.fixture
async def office(tmp_path: Path) -> AsyncIterator[Office]:
    """An office whose batches linger ten seconds."""
    clock = FakeClock()
    store = SqliteStore(tmp_path / "data", clock)
    simulator = Simulator(clock)
    simulator.batches.delay_s = None
    yield Office(store, clock, simulator, Process.begin(store, clock, simulator, Fuse(), LIMITS))
    assert await drift(store) == []
    await store.close()


def served_by(office: Office, batches: DirectBatches) -> None:
    """From now on these are asked."""
    office.process = Process.begin(
        office.store, office.clock, office.simulator, Fuse(), LIMITS, batches
    )


class Garbled(DirectBatches):
    """Its answers are no messages."""

    async def results(self, batch_id: str) -> AsyncIterator[ItemResult]:
        async for result in super().results(batch_id):
            yield ItemResult(result.custom_id, b'{"type":"succeeded","message":{"content":7}}')


async def test_a_broken_answer_that_nobody_waits_for_stays_presumed(office: Office) -> None:
    """It was answered, so it was billed: it is not free because it cannot be read."""
    served_by(office, Garbled(office.simulator))
    await office.submit("t", "other")
    (started,) = await office.events(AttemptStarted)
    await office.look(10)
    await office.cancel("t")
    await office.processed()
    sums = await lines_of(office.store)
    assert (sums["presumed_nano"], sums["confirmed_nano"]) == (started.reserved_nano, 0)
    assert (await office.row())["spent_nano"] == started.reserved_nano


def test_another_models_name_makes_nothing_cheaper() -> None:
    """The dearer one of the model that was asked and the one that the answer names, as of any call."""
    usage = {"input_tokens": 1_000, "output_tokens": 100, "service_tier": "batch"}

    def cost_nano(asked: str, named: str) -> int:
        message = {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": named,
            "content": [{"type": "text", "text": "Hello"}],
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": usage,
        }
        result = orjson.dumps({"type": "succeeded", "message": message})
        item = Item(Subject("t", "s"), 1, 1, asked, 100, FakeClock().now_us())
        cost = cost_of(prices(), read_result(result, asked), item)
        assert cost is not None
        return cost.nano

    assert cost_nano(HAIKU, HAIKU) < cost_nano(DEARER, DEARER)
    assert cost_nano(DEARER, HAIKU) == cost_nano(DEARER, DEARER)


class Refusing(DirectBatches):
    """Makes no batch that holds an item named `bad`."""

    status = 429
    error_code: str | None = None
    api_shaped = True

    async def create(self, items: Sequence[tuple[str, bytes]]) -> Standing:
        if any(name.startswith("bad") for name, _ in items):
            raise ModelFailure(
                "some_error",
                "no",
                phase=Phase.RESPONSE,
                status=self.status,
                error_code=self.error_code,
                api_shaped=self.api_shaped,
            )
        return await super().create(items)


async def test_a_spend_cap_is_said_at_once(office: Office) -> None:
    """It is no passing 429: the task ends, and its money is free for others."""
    capped = Refusing(office.simulator)
    capped.error_code = SPEND_CAP
    served_by(office, capped)
    await office.submit("bad")
    await office.look(10)
    await office.work()
    row = await office.row("bad")
    assert row["outcome"] == "upstream_spend_cap"
    assert (row["spent_nano"], row["reserved_nano"]) == (0, 0)


@pytest.mark.parametrize("api_shaped", [True, False])
@pytest.mark.parametrize(
    ("status", "outcome"),
    [(404, "upstream_rejected"), (405, "upstream_rejected"), (501, "upstream_failed")],
)
async def test_an_upstream_without_batches_is_said_at_once(
    office: Office, status: int, outcome: str, api_shaped: bool
) -> None:
    """No batch was made, and none ever will be: nobody looks for one until the deadline."""
    without = Refusing(office.simulator)
    without.status, without.api_shaped = status, api_shaped
    served_by(office, without)
    await office.submit("bad", "bad-too")
    await office.look(10)
    await office.work()
    for task_id in ("bad", "bad-too"):
        row = await office.row(task_id)
        assert row["outcome"] == outcome
        assert (row["spent_nano"], row["reserved_nano"]) == (0, 0)
    assert office.made == []


class Slow(DirectBatches):
    """Every look at a batch takes longer than a batch is put off for."""

    finds = 0

    async def find(self, batch_id: str) -> Standing:
        self.finds += 1
        assert self.finds < FINDS, "nothing else gets its turn"
        clock = self.simulator.clock
        assert isinstance(clock, FakeClock)
        clock.move(LIMITS.poll_s + 1)
        return await super().find(batch_id)


async def test_many_open_batches_do_not_keep_the_next_one_back(office: Office) -> None:
    """What is to be sent gets its turn though there is always another batch due."""
    served_by(office, Slow(office.simulator))
    await office.submit("a", "b", "c", "d", "e", "f")
    await office.look(10)
    assert len(office.made) == 2
    await office.submit("next")
    await office.look(60)
    assert [set(batch.items) for batch in office.made][2:] == [{"next-1-1"}]


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_a_bad_question_fails_alone(office: Office, status: int) -> None:
    """Whatever the refusal's number is: other owners' tasks go on, and hear nothing of it."""
    refusing = Refusing(office.simulator)
    refusing.status = status
    served_by(office, refusing)
    await office.submit("good", "bad")
    await office.look(10)
    await office.look()
    await office.processed()
    outcomes = [(await office.row(task_id))["outcome"] for task_id in ("good", "bad")]
    assert outcomes == ["answered", "upstream_rejected"]


def read_from(raw: bytes) -> AsyncIterator[ItemResult]:
    """The results in this body."""

    async def request(method: str, path: str, body: bytes | None) -> httpx2.Response:
        del method, path, body
        return httpx2.Response(200, content=raw)

    return AnthropicBatches(request, lambda: (httpx2.HTTPError,), None).results("batch_1")


LINE = b'{"custom_id":"%s","result":{"type":"expired"}}\n'


async def test_an_unreadable_line_is_passed_over() -> None:
    """It never gets better: the lines behind it are read all the same."""
    raw = LINE % b"a" + b'{"custom_id":"b","res\n' + b'{"custom_id":"c"}\n' + LINE % b"d"
    assert [result.custom_id async for result in read_from(raw)] == ["a", "d"]


async def test_an_unreadable_rest_is_an_answer_that_broke_off() -> None:
    """What was cut in the middle of a line comes whole the next time."""
    results = read_from(LINE % b"a" + LINE[:20])
    assert (await anext(results)).custom_id == "a"
    with pytest.raises(ModelFailure):
        await anext(results)


class Torn(DirectBatches):
    """Results of these batches break off after so many lines."""

    torn: frozenset[str] = frozenset()
    lines = 1

    async def results(self, batch_id: str) -> AsyncIterator[ItemResult]:
        count = 0
        async for result in super().results(batch_id):
            if batch_id in self.torn and count >= self.lines:
                raise ModelFailure("answer_lost", "cut", phase=Phase.LOST)
            count += 1
            yield result


async def test_what_was_read_is_kept_where_results_break_off(office: Office) -> None:
    """Its tasks do not wait for the rest."""
    torn = Torn(office.simulator)
    served_by(office, torn)
    await office.submit("a", "b")
    await office.look(10)
    torn.torn = frozenset({office.made[0].id})
    await office.processed()
    outcomes = [(await office.row(task_id))["outcome"] for task_id in ("a", "b")]
    assert sorted(outcomes, key=str) == [None, "answered"]
    torn.torn = frozenset()
    await office.processed()
    assert (await office.row("a"))["outcome"] == (await office.row("b"))["outcome"] == "answered"


async def test_an_unreadable_candidate_does_not_hide_the_lost_batch(office: Office) -> None:
    """Another application's batch whose results cannot be had is no reason not to find ours."""
    torn = Torn(office.simulator)
    torn.lines = 0
    served_by(office, torn)
    office.simulator.batches.creates.append("lost")
    await office.submit("t")
    await office.look(10)
    foreign = await torn.create([("foreign-1", b'{"max_tokens":1}')])
    torn.torn = frozenset({foreign.id})
    await office.look(200)
    await office.processed()
    await office.look(60)
    await office.work()
    assert (await office.row())["outcome"] == "answered"
    assert len(office.made) == 2
