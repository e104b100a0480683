"""Economy tasks on their way: into a batch, through it, and out of it by every door; what each costs."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from app.doctor.examination import examine_store
from app.domain.task import Subject, Urgency
from app.journal.call_events import AttemptReturned, AttemptStarted
from app.journal.event import Event
from app.journal.journal import read_all
from app.llm.batching.items import give_up
from app.llm.batching.port import Standing
from app.llm.bound import prompt_bound, worst_case_nano
from app.llm.models import facts_of
from app.llm.provider import ModelFailure, ModelRequest, Phase
from app.queue import verbs
from app.queue.retrying import Changes, retry
from app.simulator.core import Simulator
from app.simulator.faults import Kind, Rule
from app.store.port import Row
from app.store.sqlite import SqliteStore
from app.worker.batch_rows import BatchLimits
from tests.support.batching import DirectBatches, Fuse, Process
from tests.support.clock import FakeClock
from tests.support.desk import prices
from tests.support.provider import HAIKU
from tests.support.seeding import accepted, claim_now, drift, lines_of, row_of, spec

HOUR_S = 3_600.0
DAY_S = 24 * HOUR_S
LIMITS = BatchLimits(linger_s=10.0, items=3, size_bytes=4_000, poll_s=30.0)


@dataclass
class Office:
    """A store, an upstream whose batches are processed on command, and one process."""

    store: SqliteStore
    clock: FakeClock
    simulator: Simulator
    process: Process

    async def submit(self, *task_ids: str, **given: Any) -> None:
        """Economy tasks, accepted and worked on: their questions are written down."""
        for task_id in task_ids:
            fields = {"max_steps": 1, "deadline_s": 25 * HOUR_S, **given}
            await accepted(self.store, task_id, urgency=Urgency.ECONOMY, **fields)
        await self.work()

    async def work(self) -> None:
        """Let a worker take whatever may run."""
        for claim in await self.store.write(lambda tx: claim_now(tx, 9)):
            await self.process.work(claim)

    async def look(self, after_s: float = 0.0) -> None:
        """Let time pass, then look after batches."""
        self.clock.move(after_s)
        await self.process.keeper.look()

    async def processed(self, count: int | None = None) -> None:
        """The provider answers what it has; the results are fetched and taken in."""
        for batch in self.simulator.batches.all.values():
            if batch.ended_at_us is None:
                self.simulator.batches.process(batch, count)
        await self.look(60)
        await self.work()

    async def cancel(self, task_id: str) -> None:
        """As the API does it."""
        await self.store.write(lambda tx: verbs.cancel(tx, "local", task_id, give_up))

    async def row(self, task_id: str = "t") -> Row:
        """The task."""
        return await row_of(self.store, task_id)

    async def events(self, kind: type[Event], task_id: str = "t") -> list[Any]:
        """What its journal says."""
        entries = await read_all(self.store, Subject(task_id, "s"))
        return [e.event for e in entries if isinstance(e.event, kind)]

    @property
    def made(self) -> list[Any]:
        """The provider's batches."""
        return list(self.simulator.batches.all.values())

    @property
    def billed_nano(self) -> int:
        """What the provider has billed."""
        return self.simulator.bill.total.nano


@pytest.fixture
async def office(tmp_path: Path) -> AsyncIterator[Office]:
    """An office whose batches linger ten seconds."""
    clock = FakeClock()
    store = SqliteStore(tmp_path / "data", clock)
    simulator = Simulator(clock)
    simulator.batches.delay_s = None
    process = Process.begin(store, clock, simulator, Fuse(), LIMITS)
    yield Office(store, clock, simulator, process)
    assert await drift(store) == []
    await store.close()


class TestTheWayThrough:
    """Nothing goes wrong."""

    async def test_half_is_reserved_and_half_is_paid(self, office: Office) -> None:
        """The reservation is half of the worst case, the cost the bill to the nano-dollar."""
        await office.submit("t")
        (started,) = await office.events(AttemptStarted)
        asked = spec(max_steps=1)
        question = ModelRequest(HAIKU, 1, [{"role": "user", "content": asked.text}])
        facts, row = facts_of(HAIKU), prices().row(HAIKU, FakeClock.today())
        whole = worst_case_nano(row, facts, prompt_bound(question, facts), asked.max_tokens)
        assert (started.reserved_nano, started.tier) == (-(-whole // 2), "batch")
        assert (await office.row())["reserved_nano"] == started.reserved_nano
        await office.look(10)
        await office.processed()
        row_after = await office.row()
        assert (row_after["status"], row_after["outcome"]) == ("succeeded", "answered")
        assert row_after["spent_nano"] == office.billed_nano > 0
        assert (await lines_of(office.store))["confirmed_nano"] == office.billed_nano

    async def test_no_worker_is_held(self, office: Office) -> None:
        """While it waits the task is queued, nobody's, and not in the way of others."""
        await office.submit("t")
        row = await office.row()
        assert (row["status"], row["lease_owner"], row["in_batch"]) == ("queued", None, 1)
        assert await office.store.write(lambda tx: claim_now(tx, 9)) == []
        state = await office.store.read(lambda tx: tx.all("queue_state"))
        assert list(state) == []

    async def test_several_go_together(self, office: Office) -> None:
        """Whatever is written down while the first one lingers is in its batch; results find their tasks."""
        await office.submit("a", text="Say A.")
        await office.look(5)
        assert office.made == []
        await office.submit("b", text="Say B.")
        await office.look(5)
        (batch,) = office.made
        assert set(batch.items) == {"a-1-1", "b-1-1"}
        await office.processed()
        for task_id in "ab":
            row = await office.row(task_id)
            assert row["outcome"] == "answered"
            (line,) = (
                x for x in office.simulator.bill.lines if x.client_reference == f"{task_id}-1-1"
            )
            assert row["spent_nano"] == line.nano

    async def test_a_full_batch_does_not_linger(self, office: Office) -> None:
        """By count, and by bytes: the rest waits for the next one."""
        await office.submit("a", "b", "c", "d")
        await office.look()
        assert [len(batch.items) for batch in office.made] == [3]
        await office.submit("e", text="x" * 3_950)
        await office.look()
        assert [len(batch.items) for batch in office.made] == [3, 1]
        await office.look(10)
        assert [len(batch.items) for batch in office.made] == [3, 1, 1]

    async def test_two_processes_send_nothing_twice(self, office: Office) -> None:
        """Whoever writes the batch down first sends it; both look after it."""
        other = Process.begin(
            office.store, office.clock, office.simulator, Fuse(), BatchLimits(linger_s=1.0)
        )
        await office.submit("a", "b")
        office.clock.move(10)
        await other.keeper.look()
        await office.look()
        assert len(office.made) == 1
        office.simulator.batches.process(office.made[0])
        office.clock.move(60)
        await office.process.keeper.look()
        await other.keeper.look()
        await office.work()
        assert (
            (await office.row("a"))["outcome"] == (await office.row("b"))["outcome"] == "answered"
        )
        assert office.simulator.bill.total.lines == 2

    async def test_a_small_budget_buys_twice_the_output(self, office: Office) -> None:
        """What the budget cannot pay at the full price it may pay at half."""
        row, facts = prices().row(HAIKU, FakeClock.today()), facts_of(HAIKU)
        asked = spec(max_steps=1)
        question = ModelRequest(HAIKU, 1, [{"role": "user", "content": asked.text}])
        half = worst_case_nano(row, facts, prompt_bound(question, facts), 1_000) // 2
        await office.submit("t", budget_nano=half)
        (started,) = await office.events(AttemptStarted)
        assert 990 <= started.max_tokens <= 1_000
        assert started.reserved_nano <= half


class TestBadItems:
    """What a batch says of items that were not answered."""

    async def test_an_invalid_one_fails_alone(self, office: Office) -> None:
        """It costs nothing; the others are answered."""
        await office.submit("good", "bad")
        await office.look(10)
        office.made[0].items["bad-1-1"]["temperature"] = 1  # refused when it is processed
        await office.processed()
        bad = await office.row("bad")
        assert (bad["outcome"], bad["spent_nano"], bad["reserved_nano"]) == (
            "upstream_rejected",
            0,
            0,
        )
        assert (await office.row("good"))["outcome"] == "answered"

    async def test_an_overloaded_one_goes_into_the_next_batch(self, office: Office) -> None:
        """Free, and asked again under the next number."""
        await office.submit("t")
        await office.look(10)
        office.simulator.faults.load(0, [_rule("overloaded")], [])
        await office.processed()
        row = await office.row()
        assert (row["status"], row["spent_nano"], row["in_batch"]) == ("queued", 0, 1)
        await office.look(10)
        assert set(office.made[1].items) == {"t-1-2"}
        await office.processed()
        row = await office.row()
        assert (row["outcome"], row["spent_nano"]) == ("answered", office.billed_nano)

    async def test_an_expired_one_is_free(self, office: Office) -> None:
        """After a day the batch gives it back; while its deadline lasts it is asked again."""
        await office.submit("t", deadline_s=3 * DAY_S)
        await office.look(10)
        await office.look(DAY_S)
        await office.work()
        (returned,) = await office.events(AttemptReturned)
        assert returned.result == "expired"
        row = await office.row()
        assert (row["spent_nano"], office.billed_nano) == (0, 0)
        await office.look(10)
        await office.processed()
        assert (await office.row())["outcome"] == "answered"

    async def test_a_refusal_before_any_output_is_free(self, office: Office) -> None:
        """As everywhere."""
        await office.submit("t")
        await office.look(10)
        office.simulator.faults.load(0, [_rule("refusal")], [])
        await office.processed()
        row = await office.row()
        assert (row["outcome"], row["spent_nano"], office.billed_nano) == ("refused", 0, 0)

    async def test_usage_that_is_missing_costs_the_reservation(self, office: Office) -> None:
        """Never nothing: it is estimated at what was held."""
        await office.submit("t")
        (started,) = await office.events(AttemptStarted)
        await office.look(10)
        office.simulator.faults.load(0, [_rule("usage_missing")], [])
        await office.processed()
        sums = await lines_of(office.store)
        assert sums["estimated_nano"] == started.reserved_nano >= office.billed_nano

    async def test_an_item_without_a_word_is_presumed(self, office: Office) -> None:
        """Its batch has ended and does not mention it: it may have been billed."""
        await office.submit("t", "other")
        (started,) = await office.events(AttemptStarted)
        await office.look(10)
        office.simulator.batches.process(office.made[0])
        del office.made[0].items["t-1-1"]
        await office.look(60)
        await office.work()
        sums = await lines_of(office.store)
        assert sums["presumed_nano"] == started.reserved_nano
        assert (await office.row("other"))["outcome"] == "answered"


class TestEndsWithoutAnAnswer:
    """Cancelled, or too late."""

    async def test_cancelled_before_it_was_sent(self, office: Office) -> None:
        """Nothing leaves, nothing is paid."""
        await office.submit("t")
        await office.cancel("t")
        await office.look(10)
        row = await office.row()
        assert (row["status"], row["spent_nano"], row["reserved_nano"]) == ("cancelled", 0, 0)
        assert office.made == []

    async def test_cancelled_in_a_batch_with_others(self, office: Office) -> None:
        """At once; presumed spent until the batch says what it cost. The batch itself goes on."""
        await office.submit("t", "other")
        await office.look(10)
        (started,) = await office.events(AttemptStarted)
        await office.cancel("t")
        row = await office.row()
        assert (row["status"], row["reserved_nano"]) == ("cancelled", 0)
        assert row["spent_nano"] == started.reserved_nano
        await office.processed()
        sums = await lines_of(office.store)
        (line,) = (x for x in office.simulator.bill.lines if x.client_reference == "t-1-1")
        assert (sums["confirmed_nano"], sums["presumed_nano"]) == (line.nano, 0)
        assert (await office.row())["spent_nano"] == line.nano < started.reserved_nano
        assert (await office.row("other"))["outcome"] == "answered"

    async def test_a_batch_that_nobody_wants_is_cancelled(self, office: Office) -> None:
        """What was not answered by then is free; what was is paid."""
        await office.submit("a", "b")
        await office.look(10)
        office.simulator.batches.process(office.made[0], 1)
        await office.cancel("a")
        await office.cancel("b")
        await office.look(60)
        assert office.made[0].canceled_at_us is not None
        await office.look(60)
        spent = [(await office.row(task_id))["spent_nano"] for task_id in "ab"]
        assert sorted(spent) == [0, office.billed_nano]
        assert office.billed_nano > 0

    async def test_the_deadline_ends_it(self, office: Office) -> None:
        """As a task that waits; its late answer is paid at its price."""
        await office.submit("t", deadline_s=HOUR_S)
        await office.look(10)
        office.clock.move(HOUR_S)
        await office.store.write(lambda tx: verbs.expire(tx, 9, give_up))
        assert (await office.row())["outcome"] == "deadline"
        await office.processed()
        assert (await office.row())["spent_nano"] == office.billed_nano > 0

    async def test_cancelled_when_the_answer_is_here(self, office: Office) -> None:
        """It is paid by its usage, though nobody reads it."""
        await office.submit("t")
        await office.look(10)
        office.simulator.batches.process(office.made[0])
        await office.look(60)
        await office.cancel("t")
        await office.look()
        row = await office.row()
        assert (row["status"], row["spent_nano"]) == ("cancelled", office.billed_nano)

    async def test_a_retry_asks_anew(self, office: Office) -> None:
        """What the failed run had in a batch is only paid; the retry has a question of its own."""
        await office.submit("t", deadline_s=HOUR_S)
        await office.look(10)
        office.clock.move(HOUR_S)
        await office.store.write(lambda tx: verbs.expire(tx, 9, give_up))
        await office.store.write(lambda tx: retry(tx, "local", "t", Changes()))
        await office.work()
        await office.look(10)
        assert [set(batch.items) for batch in office.made] == [{"t-1-1"}, {"t-1-2"}]
        await office.processed()
        row = await office.row()
        assert (row["outcome"], row["spent_nano"]) == ("answered", office.billed_nano)


class TestNobodyKnows:
    """Whether a batch was made."""

    @pytest.mark.parametrize("strangers", [0, 2])
    async def test_a_lost_answer_is_found_in_the_list(self, office: Office, strangers: int) -> None:
        """By its items, once it has ended; other applications' batches of that size are not taken for it."""
        office.simulator.batches.creates.append("lost")
        await office.submit("a", "b")
        await office.look(10)
        assert len(office.made) == 1
        foreign = DirectBatches(office.simulator)
        for number in range(strangers):
            asked = [(f"foreign-{number}-{n}", b'{"max_tokens":1}') for n in range(2)]
            await foreign.create(asked)
        await office.look(200)
        await office.processed()
        await office.look(60)
        await office.work()
        for task_id in "ab":
            assert (await office.row(task_id))["outcome"] == "answered"
        assert len(office.made) == 1 + strangers
        assert office.simulator.bill.total.lines == 2

    async def test_one_that_was_not_made_is_sent_again(self, office: Office) -> None:
        """Once it is sure; under the same reservation."""
        office.simulator.batches.creates.append("failed")
        await office.submit("t")
        await office.look(10)
        await office.look(130)
        office.clock.set_by(HOUR_S)  # how late it is says nothing
        await office.look(90)
        assert office.made == []
        await office.look(100)
        assert [set(batch.items) for batch in office.made] == [{"t-1-1"}]
        await office.processed()
        row = await office.row()
        assert (row["outcome"], row["spent_nano"]) == ("answered", office.billed_nano)

    @pytest.mark.parametrize("back_s", [400, HOUR_S / 2, 2 * HOUR_S])
    async def test_a_clock_that_was_set_back_delays_nothing(
        self, office: Office, back_s: float
    ) -> None:
        """A batch that seems to be due later than anybody puts one off to is looked after now."""
        await office.submit("t")
        await office.look(10)
        office.simulator.batches.process(office.made[0])
        office.clock.set_by(-back_s)
        await office.look()
        await office.work()
        assert (await office.row())["outcome"] == "answered"

    async def test_as_long_as_a_candidate_runs_nothing_is_sent(self, office: Office) -> None:
        """It may be the one."""
        office.simulator.batches.creates.append("lost")
        await office.submit("t")
        await office.look(10)
        for _ in range(20):
            await office.look(600)
        assert len(office.made) == 1
        await office.processed()
        await office.look(60)
        await office.work()
        assert (await office.row())["outcome"] == "answered"

    async def test_a_busy_provider_is_left_alone_for_a_while(self, office: Office) -> None:
        """A 429 made no batch: the items wait, and so does the sender."""
        office.simulator.batches.creates.append("busy")
        await office.submit("t")
        await office.look(10)
        await office.look(10)
        assert office.made == []
        await office.look(30)
        assert len(office.made) == 1


class Picky(DirectBatches):
    """Refuses batches that hold a certain item."""

    status = 400

    async def create(self, items: Sequence[tuple[str, bytes]]) -> Standing:
        if any(name.startswith("bad") for name, _ in items):
            raise ModelFailure(
                "invalid_request_error",
                "no",
                phase=Phase.RESPONSE,
                status=self.status,
                api_shaped=True,
            )
        return await super().create(items)


async def test_one_item_does_not_spoil_the_others(office: Office) -> None:
    """A batch that is refused as a whole is sent item by item."""
    office.process = Process.begin(
        office.store, office.clock, office.simulator, Fuse(), LIMITS, Picky(office.simulator)
    )
    await office.submit("good", "bad", "fine")
    await office.look(10)
    await office.look()
    assert len(office.made) == 2
    await office.processed()
    outcomes = {
        task_id: (await office.row(task_id))["outcome"] for task_id in ("good", "bad", "fine")
    }
    assert outcomes == {"good": "answered", "bad": "upstream_rejected", "fine": "answered"}
    assert (await office.row("bad"))["spent_nano"] == 0


def _rule(kind: str) -> Any:
    return Rule(Kind(kind))


async def test_the_doctor_is_content(office: Office) -> None:
    """Money held for a batch is no sign of a dead worker, however long it is held."""
    await office.submit("t")
    await office.look(10)
    await office.look(5 * HOUR_S)
    report = await office.store.read(examine_store)
    assert report.findings.counts == {}
    assert report.drifts == ()


async def test_events_carry_the_latest_run(office: Office) -> None:
    """A task that was claimed once more meanwhile hears of its batch under that run's number."""
    await office.submit("t")
    await office.store.write(
        lambda tx: tx.run("requeue_task", id="t", run=1, available_at_us=0, now_us=1, crashed=0)
    )
    await office.store.write(lambda tx: tx.run("wake_batched", id="t", now_us=tx.now_us))
    await office.work()
    await office.look(10)
    await office.processed()
    row = await office.row()
    assert (row["outcome"], row["run_count"]) == ("answered", 3)
    entries = await read_all(office.store, Subject("t", "s"))
    runs = [entry.subject.run for entry in entries]
    assert runs == sorted(runs)
