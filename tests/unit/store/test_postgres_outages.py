"""PostgreSQL that goes away, hangs, or says no: nothing is lost, nothing is done twice, nobody waits for ever."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from typing import Any

import psycopg
import pytest

from app.domain.clock import SystemClock
from app.domain.errors import StoreCorrupt, StoreError, StoreFull, StoreUnavailable
from app.store.persist import persist
from app.store.port import Tx
from app.store.postgres import PostgresStore
from app.store.postgres_link import Limits, Link
from app.store.postgres_schema import LOCK, prepare
from tests.support.clock import yielded
from tests.support.pgproxy import Cut, Proxy, proxy
from tests.support.postgres import LOCKED, Server, server

HOLD = f"BEGIN; SELECT pg_advisory_xact_lock({LOCK})"


@pytest.fixture
def way(postgres: Server) -> Iterator[Proxy]:
    """A way to the server that can be cut."""
    with proxy(postgres) as made:
        yield made


@asynccontextmanager
async def opened(url: str, **limits: Any) -> AsyncIterator[PostgresStore]:
    """A store, closed after the block."""
    store = PostgresStore(url, limits=Limits(**limits))
    try:
        yield store
    finally:
        await store.close()


def append(tx: Tx, subject: str = "a") -> int:
    """Write an event, and tell of it; its number."""
    row = tx.one(
        "append_event", subject=subject, type="x", at_us=tx.now_us, run=0, data="{}", body=None
    )
    assert row is not None
    tx.after_commit(row["seq"])
    return int(row["seq"])


def count(tx: Tx, subject: str = "a") -> int:
    """How many events it has."""
    return len(tx.all("read_events", subject=subject, after=0, limit=10_000))


class TestLostCommit:
    """The connection breaks in the middle of a COMMIT, and with it the answer."""

    async def test_that_was_kept(self, database_url: str, way: Proxy) -> None:
        """The caller gets its value as if nothing had happened, and the facts are told once."""
        async with opened(way.url(database_url)) as store:
            told: list[object] = []
            store.listener = told.extend
            assert await store.write(append) == 1
            way.cuts.append("after")
            assert await store.write(append) == 2
            assert await store.write(append) == 3
        assert told == [1, 2, 3]

    async def test_that_never_arrived(self, database_url: str, way: Proxy) -> None:
        """Nothing was kept, and the caller hears exactly that; the next write works."""
        async with opened(way.url(database_url)) as store:
            told: list[object] = []
            store.listener = told.extend
            way.cuts.append("before")
            with pytest.raises(StoreUnavailable):
                await store.write(append)
            assert await store.write(append) == 1
        assert told == [1]

    async def test_whose_answer_never_comes(self, database_url: str, way: Proxy) -> None:
        """A server that says nothing any more counts as gone after a while, and the answer is looked up."""
        async with opened(way.url(database_url), answer_ms=100) as store:
            way.cuts.append("silent")
            assert await store.write(append) == 1

    @pytest.mark.parametrize("cut", ["before", "after"])
    async def test_again_and_again(self, database_url: str, way: Proxy, cut: Cut) -> None:
        """Whoever persists writes once, whatever becomes of the connection."""
        async with opened(way.url(database_url)) as store:
            way.cuts.extend([cut, None, cut, cut])
            numbers = []
            for _ in range(4):
                numbers += await asyncio.gather(
                    *(persist(store, SystemClock(), append) for _ in range(5))
                )
            assert await store.read(count) == 20
        assert sorted(numbers) == list(range(1, 21))

    async def test_while_nobody_can_say(self, database_url: str, way: Proxy) -> None:
        """Its caller waits for the answer; who comes later is refused at once, and nothing of it is kept."""
        async with opened(way.url(database_url)) as store:
            assert await store.write(append) == 1
            way.cuts.append("after")
            way.refusing = True
            first = asyncio.ensure_future(store.write(append))
            while way.cuts:
                await yielded()
            while not first.done():
                try:
                    await store.write(lambda tx: append(tx, "later"))
                except StoreUnavailable:
                    assert not first.done()
                    way.refusing = False
            assert await first == 2
            assert await store.read(lambda tx: count(tx, "later")) <= 1

    async def test_when_the_store_is_closed_meanwhile(self, database_url: str, way: Proxy) -> None:
        """Closing does not wait for ever: the caller hears that the answer was lost."""
        store = PostgresStore(way.url(database_url), limits=Limits(lost_s=0.1))
        assert await store.write(append) == 1
        way.cuts.append("after")
        way.refusing = True
        write = asyncio.ensure_future(store.write(append))
        await yielded()
        await store.close()
        with pytest.raises(StoreUnavailable, match="the answer whether a write was kept"):
            await write


class TestOthersLocks:
    """The advisory lock of the writers, in the hands of somebody else."""

    async def test_a_frozen_peer_loses_it(self, database_url: str) -> None:
        """A process that stands still in the middle of a batch is cut off by the server; others go on."""
        with closing(Link(database_url, Limits(idle_ms=300))) as frozen:
            frozen.simple(HOLD)
            async with opened(database_url) as store:
                assert await store.write(append) == 1
            with pytest.raises(psycopg.Error, match="idle-in-transaction"):
                frozen.simple("COMMIT")

    async def test_a_busy_peer_keeps_it(self, database_url: str) -> None:
        """Who waits too long hears of it, and nothing of the batch is kept; afterwards it works again."""
        with closing(Link(database_url)) as busy:
            busy.simple(HOLD)
            async with opened(database_url, lock_ms=200) as store:
                both = await asyncio.gather(
                    store.write(append), store.write(append), return_exceptions=True
                )
                assert [type(error) for error in both] == [StoreUnavailable] * 2
                assert await store.read(count) == 0
                busy.simple("COMMIT")
                assert await store.write(append) == 1

    async def test_a_slow_statement_hurts_only_its_operation(self, database_url: str) -> None:
        """The server gives it up; its neighbours in the batch are kept."""

        def slow(tx: Any) -> None:
            append(tx)
            tx._link.simple("SELECT pg_sleep(60)")

        async with opened(database_url, statement_ms=200) as store:
            results = await asyncio.gather(
                *(store.write(op) for op in (append, slow, append)), return_exceptions=True
            )
            assert [results[0], results[2]] == [1, 2]
            assert isinstance(results[1], StoreUnavailable)
            with pytest.raises(StoreUnavailable):
                await store.read(slow)
            assert await store.read(count) == 2

    @pytest.mark.parametrize("where", ["statement", "commit"])
    async def test_a_frozen_server(self, database_url: str, where: str) -> None:
        """Its process for us stands still with the lock: nobody waits for ever, and nothing is kept twice."""
        pids: list[int] = []

        def freezing(tx: Any) -> int:
            number = append(tx)
            pids.append(int(tx._link.simple("SELECT pg_backend_pid()").get_value(0, 0)))
            os.kill(pids[0], signal.SIGSTOP)
            return append(tx) if where == "statement" else number

        async with opened(database_url, answer_ms=300, lock_ms=200) as store:
            first = asyncio.ensure_future(store.write(freezing))
            while not pids:
                await yielded()
            try:
                if where == "statement":
                    with pytest.raises(StoreUnavailable, match="no answer within"):
                        await first
                with pytest.raises(StoreUnavailable, match=r"lock timeout|no answer within"):
                    await store.write(append)
                assert await store.read(count) == 0
            finally:
                os.kill(pids[0], signal.SIGCONT)
            kept = 0 if where == "statement" else await first
            assert await persist(store, SystemClock(), append) == kept + 1
            assert await store.read(count) == kept + 1

    @pytest.mark.parametrize(
        ("state", "error"),
        [("53100", StoreFull), ("XX001", StoreCorrupt), ("53200", StoreUnavailable)],
    )
    async def test_what_the_server_has_run_out_of(
        self, database_url: str, state: str, error: type[StoreError]
    ) -> None:
        """A full disk, a damaged table, no memory: typed, for the whole batch; the next one works."""

        def failing(tx: Any) -> None:
            count(tx)
            tx._link.simple(f"DO $$ BEGIN RAISE 'on purpose' USING ERRCODE = '{state}'; END $$")

        async with opened(database_url) as store:
            results = await asyncio.gather(
                *(store.write(op) for op in (append, failing, append)), return_exceptions=True
            )
            assert [type(result) for result in results] == [error] * 3
            with pytest.raises(error):
                await store.read(failing)
            assert await store.write(append) == 1


class TestRefusals:
    """Servers that let nobody in; what is said is one sentence without a secret."""

    def test_wrong_password(self, postgres: Server) -> None:
        """It names the place and the reason."""
        postgres.execute(f"CREATE ROLE {LOCKED} LOGIN PASSWORD 'right'")
        url = postgres.url().replace("bursar@", f"{LOCKED}:wrong-secret@")
        with pytest.raises(StoreUnavailable) as caught:
            PostgresStore(url)
        assert "password authentication failed" in str(caught.value)
        assert "wrong-secret" not in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_no_such_database(self, postgres: Server) -> None:
        """It is not made: that is for whoever runs the server."""
        with pytest.raises(StoreUnavailable, match='database "nowhere" does not exist'):
            PostgresStore(postgres.url("nowhere"))

    async def test_no_connection_left(self, postgres: Server) -> None:
        """An owner with one connection: the second thread that needs one hears so, the first works on."""
        postgres.execute("CREATE ROLE plain LOGIN CONNECTION LIMIT 1")
        url = postgres.create().replace("bursar@", "plain@")
        postgres.execute(f"ALTER DATABASE {url.rpartition('/')[2]} OWNER TO plain")
        async with opened(url) as store:
            while postgres.execute("SELECT 1 FROM pg_stat_activity WHERE usename = 'plain'"):
                await yielded()  # the connection that made the schema is still leaving
            assert await store.write(append) == 1
            with pytest.raises(StoreUnavailable, match="too many connections"):
                await store.read(count)
            assert await store.write(append) == 2
            postgres.execute("ALTER ROLE plain CONNECTION LIMIT 5")
            async with asyncio.timeout(10):
                while True:
                    try:
                        assert await store.read(count) == 2
                    except StoreUnavailable:
                        continue
                    break
        postgres.drop(url)


class TestStops:
    """The server ends, and comes back."""

    @pytest.mark.parametrize("how", [signal.SIGQUIT, signal.SIGINT])
    async def test_it_comes_back(self, how: signal.Signals) -> None:
        """Every caller hears that it is away; when it is back, the next one is served; nothing is lost."""
        with server() as own:
            url = own.create()
            prepare(url)
            async with opened(url) as store:
                assert await store.write(append) == 1
                assert await store.read(count) == 1
                own.stop(how)
                for _ in range(3):
                    for run in (store.write(append), store.read(count)):
                        with pytest.raises(StoreUnavailable, match="cannot be used right now"):
                            await run
                writes = [
                    asyncio.ensure_future(persist(store, SystemClock(), append)) for _ in range(5)
                ]
                own.start()
                assert sorted(await asyncio.gather(*writes)) == [2, 3, 4, 5, 6]
                assert await store.read(count) == 6
