"""What PostgreSQL's adapter does in its own way: schema, values, versions, errors."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import psycopg
import pytest

from app.domain.errors import StoreTooNew, StoreUnavailable
from app.store.port import Tx
from app.store.postgres import PostgresStore
from app.store.postgres_link import Link, place_of
from app.store.postgres_schema import prepare
from app.store.postgres_tx import load_statements
from app.store.postgres_words import rows_of, statement
from app.store.queries import load_migrations
from tests.conformance.test_queries import STORY
from tests.support.postgres import Server


@pytest.fixture
def empty_url(postgres: Server) -> Iterator[str]:
    """A database without any table."""
    url = postgres.create()
    yield url
    postgres.drop(url)


def rows(url: str, text: str) -> list[tuple[Any, ...]]:
    """What a SELECT finds."""
    with psycopg.connect(url) as connection:
        return connection.execute(text.encode()).fetchall()


class TestSchema:
    """The same migrations as everywhere, in PostgreSQL's words."""

    def test_many_that_start_at_once_migrate_once(self, empty_url: str) -> None:
        """Replicas that start together find one schema, made by whoever came first."""
        with ThreadPoolExecutor(6) as pool:
            list(pool.map(prepare, [empty_url] * 6))
        found = rows(empty_url, "SELECT version FROM schema_migrations ORDER BY version")
        assert [version for (version,) in found] == [v for v, _, _ in load_migrations()]

    def test_a_commit_is_on_the_disk(self, database_url: str) -> None:
        """Also where the database or its user is told to be quick about it."""
        quick = f"{database_url}?options=-c%20synchronous_commit%3Doff"
        assert rows(quick, "SHOW synchronous_commit") == [("off",)]
        with closing(Link(quick)) as link:
            assert link.simple("SHOW synchronous_commit").get_value(0, 0) == b"on"

    def test_text_is_ordered_by_its_bytes(self, database_url: str) -> None:
        """Whatever the database's own order is: pages and keys must not depend on it."""
        other = rows(
            database_url,
            "SELECT attrelid::regclass, attname FROM pg_attribute AS a"
            " JOIN pg_class AS t ON t.oid = attrelid AND relkind IN ('r', 'i')"
            " JOIN pg_collation AS c ON c.oid = attcollation"
            " WHERE relnamespace = 'public'::regnamespace AND collname <> 'C'"
            " AND attrelid::regclass::text !~ 'schema_migrations'",
        )
        assert other == []

    def test_a_newer_schema_is_left_alone(self, empty_url: str) -> None:
        """A version that does not know it neither opens nor changes it."""
        prepare(empty_url)
        with psycopg.connect(empty_url) as connection:
            connection.execute("INSERT INTO schema_migrations VALUES (999, 'later', 0)")
        with pytest.raises(StoreTooNew, match="has schema version 999; this version"):
            PostgresStore(empty_url)

    def test_a_command_makes_no_schema(self, empty_url: str) -> None:
        """What only looks neither makes a schema nor migrates one."""
        with pytest.raises(StoreUnavailable, match="nothing of Bursar's"):
            PostgresStore(empty_url, make=False)
        prepare(empty_url)
        with psycopg.connect(empty_url) as connection:
            connection.execute("DELETE FROM schema_migrations WHERE version > 1")
        with pytest.raises(StoreUnavailable, match="start the service once"):
            PostgresStore(empty_url, make=False)

    def test_a_migration_that_fails_leaves_nothing(self, empty_url: str) -> None:
        """It is one transaction: the tables before it are as they were."""
        with psycopg.connect(empty_url) as connection:
            connection.execute("CREATE TABLE events (id INTEGER)")
        with pytest.raises(StoreUnavailable, match="events"):
            prepare(empty_url)
        found = rows(empty_url, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        assert found == [("events",)]

    def test_another_encoding_is_refused(self, postgres: Server) -> None:
        """A database that cannot keep every character is refused at the start."""
        postgres.execute("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
        with pytest.raises(StoreUnavailable, match="must be encoded in UTF8, and is in LATIN1"):
            PostgresStore(postgres.url("latin"))


class TestStatements:
    """Named queries in PostgreSQL's words, and what goes in and comes out."""

    def test_every_query_has_types_that_the_server_can_infer(self, database_url: str) -> None:
        """One plan a query, whatever the values are; where a number comes, a number is compared."""
        numbers: dict[str, set[str]] = {}
        for use in STORY:
            found = {name for name, value in use.params.items() if isinstance(value, int)}
            numbers.setdefault(use.query, set()).update(found)
        with closing(Link(database_url)) as link:
            for query, wanted in load_statements().items():
                link._pg.prepare(wanted.name, wanted.text, wanted.types)
                described = link._pg.describe_prepared(wanted.name)
                for position, name in enumerate(wanted.parameters):
                    is_number = described.param_type(position) in {20, 21, 23}
                    assert is_number or name not in numbers[query], (query, name)

    def test_a_name_that_comes_twice_is_one_parameter(self) -> None:
        """Comments are left out, and a cast is no parameter."""
        made = statement("q", "-- not :this\nSELECT :b, :a, :b, 1::int WHERE x = :a")
        assert made.text == b"SELECT $1, $2, $1, 1::int WHERE x = $2"
        assert made.parameters == ("b", "a")

    @pytest.mark.parametrize(
        ("kind", "value"),
        [
            ("BIGINT", 2**63 - 1),
            ("BIGINT", -(2**63)),
            ("INTEGER", 0),
            ("NUMERIC", 10**30),
            ("TEXT", "ÄÖ \U0001f600 'quoted' \\n %s $1 :x"),
            ("TEXT", ""),
            ("TEXT", None),
            ("BYTEA", bytes(range(256))),
            ("BYTEA", b""),
            ("BIGINT", None),
        ],
    )
    def test_values_come_back_as_they_went_in(
        self, database_url: str, kind: str, value: object
    ) -> None:
        """Whole numbers, text, bytes and NULL; sums are whole numbers, too."""
        wanted = statement("q", f"SELECT CAST(:value AS {kind}) AS value")
        with closing(Link(database_url)) as link:
            assert rows_of(*link.execute_each(wanted, [{"value": value}])) == [{"value": value}]

    def test_text_with_a_nul_is_refused_whole(self, database_url: str) -> None:
        """It would end at the NUL on its way; nothing is sent instead."""
        wanted = statement("q", "SELECT CAST(:value AS TEXT) AS value")
        with closing(Link(database_url)) as link, pytest.raises(ValueError, match="NUL"):
            link.execute_each(wanted, [{"value": "a\x00b"}])

    async def test_a_statement_outlives_a_change_of_its_table(self, database_url: str) -> None:
        """A newer version adds a column under a running one: at most one answer says "not now"."""
        store = PostgresStore(database_url)

        def op(tx: Tx) -> int:
            return len(tx.all("list_keys"))

        try:
            assert await store.write(op) == 0
            assert await store.read(op) == 0
            with psycopg.connect(database_url) as connection:
                connection.execute("ALTER TABLE keys ADD COLUMN later TEXT")
            for run in (store.write, store.read):
                with pytest.raises(StoreUnavailable):
                    await run(op)
                assert await run(op) == 0
        finally:
            await store.close()
            with psycopg.connect(database_url) as connection:
                connection.execute("ALTER TABLE keys DROP COLUMN later")


class TestAnswers:
    """What a caller hears when the database cannot do it."""

    async def test_nobody_there(self) -> None:
        """One sentence that names the place, and neither user nor password."""
        url = "postgresql://me:secret-word@127.0.0.1:1/books"
        with pytest.raises(StoreUnavailable) as caught:
            PostgresStore(url)
        assert "database books at 127.0.0.1:1 cannot be used right now" in str(caught.value)
        assert "\n" not in str(caught.value)
        assert "secret-word" not in str(caught.value)

    def test_places_without_a_host(self) -> None:
        """An address may leave things out."""
        assert "bursar at the local socket:5432" in place_of("postgresql:///bursar")
        assert "of the user at db:5433" in place_of("postgresql://db:5433")

    async def test_an_operation_that_passes_over_an_error(self, database_url: str) -> None:
        """A failed statement whose error was caught fails its operation all the same, and only that."""

        def careless(tx: Tx) -> str:
            tx.run("open_session", owner="o", id="lost", now_us=1)
            with pytest.raises(psycopg.Error):
                tx.run("open_account", scope="?", id="x", owner="o", limit_nano=1, warn_at_nano=1)
            return "fine"

        def careful(tx: Tx) -> int:
            return tx.run("open_session", owner="o", id="kept", now_us=1)

        store = PostgresStore(database_url)
        try:
            first, second = await asyncio.gather(
                store.write(careless), store.write(careful), return_exceptions=True
            )
            alone = await asyncio.gather(store.write(careless), return_exceptions=True)
        finally:
            await store.close()
        assert isinstance(first, psycopg.Error)
        assert second == 1
        assert isinstance(alone[0], psycopg.Error)
        assert rows(database_url, "SELECT id FROM sessions") == [("kept",)]

    async def test_instants_are_the_databases(self, database_url: str) -> None:
        """Without a clock of its own a store stamps with the server's, and never goes back."""
        store = PostgresStore(database_url)
        try:
            seen = [await store.write(lambda tx: tx.now_us) for _ in range(3)]
            seen.append(await store.read(lambda tx: tx.now_us))
        finally:
            await store.close()
        assert seen == sorted(seen)
        ((now,),) = rows(database_url, "SELECT EXTRACT(EPOCH FROM clock_timestamp()) * 1000000")
        assert 0 <= int(now) - seen[-1] < 60_000_000
