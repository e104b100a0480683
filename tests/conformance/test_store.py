"""What every store promises: whole operations, facts after the commit, snapshots for readers."""

import asyncio
import logging
import threading
from typing import Any

import pytest

from app.domain.clock import SystemClock
from app.domain.errors import StoreUnavailable
from app.store.persist import persist, shielded
from app.store.port import ListenedStore, Operation, Tx, Urgent
from tests.support.clock import FakeClock, yielded


class Boom(Exception):  # noqa: N818
    """What a failing operation raises."""


def open_account(tx: Tx, name: str) -> None:
    """Make an account with a limit of 10."""
    tx.run("open_account", scope="task", id=name, owner="local", limit_nano=10, warn_at_nano=8)


def exists(tx: Tx, name: str) -> bool:
    """Whether there is an account of that name."""
    return tx.one("read_account", scope="task", id=name) is not None


def append(tx: Tx, subject: str) -> int:
    """Write an event; its number."""
    row = tx.one(
        "append_event", subject=subject, type="x", at_us=tx.now_us, run=0, data="{}", body=None
    )
    assert row is not None
    return int(row["seq"])


async def numbers(store: ListenedStore, subject: str) -> list[int]:
    """The numbers of a subject's events."""
    rows = await store.read(
        lambda tx: tx.all("read_events", subject=subject, after=0, limit=10_000)
    )
    return [row["seq"] for row in rows]


async def test_write_returns_the_value_and_the_row_is_there(store):
    """What an operation returns comes back, and what it wrote can be read."""

    def op(tx: Tx) -> str:
        open_account(tx, "a")
        return "value"

    assert await store.write(op) == "value"
    assert await store.read(lambda tx: exists(tx, "a"))


async def test_rows_survive_closing_and_opening(open_store):
    """What was answered as durable is there after a restart."""
    first = open_store()
    await first.write(lambda tx: open_account(tx, "a"))
    await first.close()
    assert await open_store().read(lambda tx: exists(tx, "a"))


async def test_failing_operation_hurts_no_neighbour(store):
    """Of a batch, only the operation that raises is undone, with its facts; the others are kept."""
    facts: list[object] = []
    store.listener = facts.extend

    def op_of(name: str, error: Exception | None) -> Any:
        def op(tx: Tx) -> str:
            open_account(tx, name)
            tx.after_commit(name)
            if error is not None:
                raise error
            return name

        return op

    results = await asyncio.gather(
        *(
            store.write(op_of(f"a{number}", Boom(number) if number % 3 == 1 else None))
            for number in range(30)
        ),
        return_exceptions=True,
    )
    for number, result in enumerate(results):
        failed = number % 3 == 1
        assert isinstance(result, Boom) if failed else result == f"a{number}"
        kept = await store.read(lambda tx, name=f"a{number}": exists(tx, name))
        assert kept is not failed
    assert facts == [f"a{number}" for number in range(30) if number % 3 != 1]


@pytest.mark.parametrize(
    "break_it",
    [
        pytest.param(lambda tx: tx.run("open_account", scope="task"), id="parameter missing"),
        pytest.param(lambda tx: tx.run("no_such_query"), id="unknown query"),
        pytest.param(
            lambda tx: tx.run(
                "open_account", scope="?", id="x", owner="o", limit_nano=1, warn_at_nano=1
            ),
            id="constraint",
        ),
        pytest.param(
            lambda tx: tx.run(
                "open_account", scope="task", id="x", owner="o", limit_nano=2**70, warn_at_nano=1
            ),
            id="number too large",
        ),
        pytest.param(
            lambda tx: tx.run(
                "open_account", scope="task", id="\ud800", owner="o", limit_nano=1, warn_at_nano=1
            ),
            id="text that is no text",
        ),
    ],
)
async def test_wrong_statement_is_its_own_operations_fault(store, break_it):
    """A statement with wrong parameters fails alone; its neighbours in the batch are kept."""

    def wrong(tx: Tx) -> None:
        open_account(tx, "undone")
        break_it(tx)

    operations: list[Any] = [
        lambda tx: open_account(tx, "before"),
        wrong,
        lambda tx: open_account(tx, "after"),
    ]
    results = await asyncio.gather(*map(store.write, operations), return_exceptions=True)
    assert [results[0], results[2]] == [None, None]
    assert isinstance(results[1], Exception)
    found = [
        await store.read(lambda tx, n=name: exists(tx, n)) for name in ("before", "undone", "after")
    ]
    assert found == [True, False, True]


def account(name: str) -> dict[str, object]:
    """The parameters of a new account."""
    return {"scope": "task", "id": name, "owner": "o", "limit_nano": 10, "warn_at_nano": None}


async def test_many_statements_in_one_go(store):
    """One result for each, in order; of none there is none."""

    def op(tx: Tx) -> tuple[list[int], list[Any]]:
        counts = tx.run_each("open_account", [account("a"), account("b"), account("a")])
        keys = [{"scope": "task", "id": name} for name in "bxa"]
        return counts, tx.one_each("read_account", keys)

    counts, (b, missing, a) = await store.write(op)
    assert counts == [1, 1, 0]
    assert (a["limit_nano"], missing, b["limit_nano"]) == (10, None, 10)
    assert await store.read(lambda tx: tx.one_each("read_account", [])) == []
    assert await store.write(lambda tx: tx.run_each("open_account", [])) == []


async def test_one_of_many_statements_fails(store):
    """Its operation is undone with those before it; the neighbours are kept."""

    def wrong(tx: Tx) -> None:
        tx.run_each("open_account", [account("lost"), {**account("x"), "scope": "?"}, account("y")])

    results = await asyncio.gather(
        store.write(lambda tx: open_account(tx, "before")),
        store.write(wrong),
        store.write(lambda tx: open_account(tx, "after")),
        return_exceptions=True,
    )
    assert [type(result) for result in results[::2]] == [type(None)] * 2
    assert isinstance(results[1], Exception)
    found = [
        await store.read(lambda tx, n=name: exists(tx, n)) for name in ("before", "lost", "after")
    ]
    assert found == [True, False, True]


async def test_what_is_put_off_belongs_to_its_operation(store):
    """It is seen by the next statement, done by the operation's end, and undone with it."""

    def seen(tx: Tx) -> bool:
        tx.later("open_account", **account("seen"))
        return exists(tx, "seen")

    def last(tx: Tx) -> None:
        tx.later("open_account", **account("last"))

    def failing(tx: Tx) -> None:
        tx.later("open_account", **account("undone"))
        raise Boom

    def wrong(tx: Tx) -> str:
        tx.later("open_account", **{**account("wrong"), "scope": "?"})
        return "its value is never seen"

    operations = [seen, last, failing, wrong, lambda tx: append(tx, "s"), last, failing]
    results = await asyncio.gather(*map(store.write, operations), return_exceptions=True)
    assert results[:2] == [True, None]
    assert results[4:6] == [1, None]
    assert [isinstance(result, Exception) for result in results] == [
        False, False, True, True, False, False, True
    ]  # fmt: skip
    with pytest.raises(Boom):
        await store.write(failing)
    with pytest.raises(Exception, match=r"(?i)check constraint"):
        await store.write(wrong)
    names = ("seen", "last", "undone", "wrong")
    found = [await store.read(lambda tx, n=name: exists(tx, n)) for name in names]
    assert found == [True, True, False, False]


async def test_operations_without_a_statement(store):
    """They fail and succeed between others like any other."""

    def failing(_tx: Tx) -> None:
        raise Boom

    operations = [
        lambda tx: append(tx, "s"),
        lambda tx: tx.now_us,
        failing,
        lambda tx: append(tx, "s"),
        failing,
        lambda tx: append(tx, "s"),
        failing,
    ]
    results = await asyncio.gather(*map(store.write, operations), return_exceptions=True)
    assert [results[0], results[3], results[5]] == [1, 2, 3]
    assert all(isinstance(results[number], Boom) for number in (2, 4, 6))
    assert await numbers(store, "s") == [1, 2, 3]


async def test_facts_come_after_the_commit_and_in_order(store):
    """The listener hears facts in the order of their operations, when their rows can be read."""
    heard: list[int] = []
    readable: list[asyncio.Task[bool]] = []

    def listener(facts: list[int]) -> None:
        heard.extend(facts)
        last = f"a{facts[-1]}"
        readable.append(asyncio.ensure_future(store.read(lambda tx: exists(tx, last))))

    store.listener = listener

    def op_of(number: int) -> Any:
        def op(tx: Tx) -> None:
            open_account(tx, f"a{number}")
            tx.after_commit(number)

        return op

    await asyncio.gather(*(store.write(op_of(number)) for number in range(100)))
    assert heard == list(range(100))
    assert all(await asyncio.gather(*readable))


async def test_facts_are_published_before_their_writer_goes_on(store):
    """When a write returns, its facts have been told: what follows can rely on it."""
    heard: list[object] = []
    store.listener = heard.extend
    await store.write(lambda tx: tx.after_commit("fact"))
    assert heard == ["fact"]


async def test_two_hundred_writers_share_few_commits(store):
    """Writers that come together are committed together, each gets its own value, nothing is lost."""
    commits: list[int] = []
    store.listener = lambda facts: commits.append(len(facts))

    async def writer(name: str) -> list[int]:
        found = []
        for _ in range(5):

            def op(tx: Tx) -> int:
                tx.after_commit(name)
                return append(tx, name)

            found.append(await store.write(op))
        return found

    results = await asyncio.gather(*(writer(f"w{number}") for number in range(200)))
    assert results == [[1, 2, 3, 4, 5]] * 200
    assert sum(commits) == 1_000
    assert len(commits) <= 20
    for number in range(0, 200, 50):
        assert await numbers(store, f"w{number}") == [1, 2, 3, 4, 5]


async def test_writes_run_in_the_order_they_were_asked(store):
    """Writes queued one after the other are executed in that order."""
    order: list[int] = []
    await asyncio.gather(
        *(store.write(lambda _tx, n=number: order.append(n)) for number in range(50))
    )
    assert order == list(range(50))


async def test_an_urgent_write_goes_before_those_that_wait(store):
    """A heartbeat is written next, however much work was asked for before it."""
    ran: list[object] = []

    def noting(what: object) -> Operation[None]:
        return lambda _tx: ran.append(what)

    work = [store.write(noting(number)) for number in range(1_500)]
    beats = [store.write(Urgent(noting(beat))) for beat in ("first", "second")]
    await asyncio.gather(*work, *beats)
    assert ran == ["first", "second", *range(1_500)]


async def test_operations_of_a_batch_see_each_other(store):
    """An operation reads what the ones before it wrote, though nothing is committed yet."""
    _, seen = await asyncio.gather(
        store.write(lambda tx: open_account(tx, "a")), store.write(lambda tx: exists(tx, "a"))
    )
    assert seen is True


async def test_readers_never_see_what_is_not_committed(store):
    """While a write is under way, a reader sees the state before it; afterwards, the state after it."""
    written, go_on = threading.Event(), threading.Event()

    def slow(tx: Tx) -> None:
        open_account(tx, "a")
        written.set()
        assert go_on.wait(30)

    writing = asyncio.ensure_future(store.write(slow))
    assert await asyncio.get_running_loop().run_in_executor(None, written.wait, 30)
    assert await store.read(lambda tx: exists(tx, "a")) is False
    go_on.set()
    await writing
    assert await store.read(lambda tx: exists(tx, "a")) is True


async def test_a_reader_keeps_one_snapshot(store):
    """Within one read nothing changes, whatever is committed meanwhile."""
    reading, go_on = threading.Event(), threading.Event()

    def twice(tx: Tx) -> tuple[bool, bool]:
        first = exists(tx, "a")
        reading.set()
        assert go_on.wait(30)
        return first, exists(tx, "a")

    both = asyncio.ensure_future(store.read(twice))
    assert await asyncio.get_running_loop().run_in_executor(None, reading.wait, 30)
    await store.write(lambda tx: open_account(tx, "a"))
    go_on.set()
    assert await both == (False, False)


async def test_a_read_cannot_write(store):
    """An operation that writes is refused on the readers' side."""
    with pytest.raises(StoreUnavailable):
        await store.read(lambda tx: open_account(tx, "a"))
    assert not await store.read(lambda tx: exists(tx, "a"))


async def test_read_hands_on_what_its_operation_raises(store):
    """A reader's own exception comes through, and the reader works on."""

    def op(_tx: Tx) -> None:
        raise Boom

    for _ in range(5):
        with pytest.raises(Boom):
            await store.read(op)
    assert await store.read(lambda tx: exists(tx, "a")) is False


async def test_cancelled_callers_corrupt_nothing(store):
    """A cancelled write is kept whole or not at all; the others in its batch get their answers."""
    writes = [
        asyncio.ensure_future(store.write(lambda tx, n=number: append(tx, f"c{n}")))
        for number in range(40)
    ]
    await yielded()
    for write in writes[::2]:
        write.cancel()
    results = await asyncio.gather(*writes, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results[::2])
    assert results[1::2] == [1] * 20
    for number in range(40):
        assert await numbers(store, f"c{number}") in ([1], [])
    assert await store.write(lambda tx: append(tx, "after")) == 1


async def test_a_write_ends_with_its_loop(store):
    """At the loop's end everything is cancelled, the store's own work too: whoever sees a write to its end must not wait for ever."""
    begun, go_on = threading.Event(), threading.Event()

    def slow(_tx: Tx) -> None:
        begun.set()
        go_on.wait(10)

    writes = [asyncio.ensure_future(shielded(store, op)) for op in (slow, open_account_a)]
    writes.append(asyncio.ensure_future(persist(store, SystemClock(), open_account_a)))
    await asyncio.to_thread(begun.wait, 10)
    (flushing,) = (task for task in asyncio.all_tasks() if task.get_name() == "store-flush")
    for task in (flushing, *writes):
        task.cancel()
    go_on.set()
    async with asyncio.timeout(10):
        ends = await asyncio.gather(*writes, return_exceptions=True)
    assert [type(end) for end in ends] == [asyncio.CancelledError] * 3


def open_account_a(tx: Tx) -> None:
    """Make an account."""
    open_account(tx, "a")


async def test_shielded_write_ends_before_the_cancellation_goes_on(store):
    """A shielded write is durable by the time its cancelled caller hears of the cancellation."""
    started, go_on = threading.Event(), threading.Event()

    def slow(tx: Tx) -> None:
        open_account(tx, "a")
        started.set()
        assert go_on.wait(30)

    writing = asyncio.ensure_future(shielded(store, slow))
    assert await asyncio.get_running_loop().run_in_executor(None, started.wait, 30)
    writing.cancel()
    await yielded(3)
    assert not writing.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert await store.read(lambda tx: exists(tx, "a"))


async def test_persist_tries_again_until_the_store_works(store, caplog):
    """A write that must not be lost waits for the store to come back; other errors come through."""
    clock, tries = FakeClock(), []

    def op(tx: Tx) -> str:
        tries.append(tx.now_us)
        if len(tries) < 4:
            raise StoreUnavailable("not now")
        return "kept"

    with caplog.at_level(logging.ERROR):
        assert await persist(store, clock, op) == "kept"
    assert len(tries) == 4
    assert len(clock.slept) == 3
    assert [record.message for record in caplog.records] == ["write_postponed"] * 3

    def bug(_tx: Tx) -> None:
        raise Boom

    with pytest.raises(Boom):
        await persist(store, clock, bug)


async def test_the_transactions_instant_is_the_clocks(open_store):
    """Operations stamp with the clock the store was given."""
    clock = FakeClock()
    store = open_store(clock)
    assert await store.write(lambda tx: tx.now_us) == clock.now_us()
    clock.move(5)
    assert await store.read(lambda tx: tx.now_us) == clock.now_us()


async def test_closing_finishes_what_was_asked_and_takes_no_more(open_store):
    """Close waits for the writes that are queued; afterwards the store says that it is closed."""
    store = open_store()
    write = asyncio.ensure_future(store.write(lambda tx: append(tx, "a")))
    await yielded()
    await store.close()
    assert await write == 1
    with pytest.raises(StoreUnavailable):
        await store.write(lambda tx: append(tx, "a"))
    with pytest.raises(StoreUnavailable):
        await store.read(lambda tx: exists(tx, "a"))


async def test_a_listener_that_fails_stops_no_write(store):
    """Whatever the listener does, the writer is answered, and so is the next."""

    def listener(facts: list[object]) -> None:
        raise Boom

    store.listener = listener
    async with asyncio.timeout(10):
        assert await store.write(lambda tx: (tx.after_commit(1), append(tx, "a"))[1]) == 1
        assert await store.write(lambda tx: append(tx, "a")) == 2
