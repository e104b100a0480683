"""PostgreSQL's schema: the migrations of every store, in its words, one replica at a time."""

import re

import psycopg

from app.domain.errors import StoreTooNew, StoreUnavailable
from app.store.postgres_link import Link, store_error
from app.store.postgres_pooler import refuse_shared_sessions
from app.store.queries import load_migrations

LOCK = 0x42757273_6172
"""The advisory lock that serialises the writes of all replicas of one database."""
_MIGRATION_TIMEOUT_MS = 15 * 60_000
_KEPT_US = 7 * 86_400 * 1_000_000
"""How long the word of a writer that has gone is kept: far longer than anybody asks for it."""
_OURS = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    version INTEGER PRIMARY KEY, name TEXT NOT NULL, applied_at_us BIGINT NOT NULL);
-- The last batch that each writer committed: who lost the answer to a COMMIT looks it up here.
CREATE TABLE IF NOT EXISTS commits (
    writer TEXT COLLATE "C" PRIMARY KEY, batch BIGINT NOT NULL, at_us BIGINT NOT NULL);
"""
NOW_US = "(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::BIGINT"
_TEXT = re.compile(r"(?<=\s)TEXT\b(?!\))")


def in_postgres(script: str) -> str:
    """A migration's text in PostgreSQL's words. Text is ordered by its bytes, as it is in SQLite."""
    script = script.replace("WITHOUT ROWID", "").replace("BLOB", "BYTEA")
    return _TEXT.sub('TEXT COLLATE "C"', script)


def prepare(url: str, *, make: bool = True) -> None:
    """See that the schema is this version's; with `make`, make or migrate it: each migration in a transaction.

    Raises:
        StoreTooNew: the schema was made by a newer version.
        StoreError: the database cannot be used, or not through the pooler that is in between, or has no schema of
            this version and none is to be made.
    """
    link = Link(url)
    link.patience_ms = _MIGRATION_TIMEOUT_MS
    try:
        refuse_shared_sessions(link, url)
        if not make:
            refuse_other_versions(link)
        version, known = _version(link), len(load_migrations())
        _refuse_newer(link, version)
        while version < known:
            version = _step(link)
        link.simple(f"DELETE FROM commits WHERE at_us < {NOW_US} - {_KEPT_US}")  # noqa: S608
    except psycopg.Error as error:
        raise store_error(error, link.place) from error
    finally:
        link.close()


def refuse_other_versions(link: Link) -> None:
    """For whoever may not change the schema.

    Raises:
        StoreTooNew, StoreUnavailable: it is not this version's.
        psycopg.Error: the database cannot be used.
    """
    version, known = _version(link), len(load_migrations())
    _refuse_newer(link, version)
    if version == 0:
        message = f"There is nothing of Bursar's in {link.place[0].lower()}{link.place[1:]}."
        raise StoreUnavailable(message)
    if version < known:
        message = f"{link.place} has schema version {version}, and this version needs {known}"
        raise StoreUnavailable(f"{message}: start the service once, it migrates.")


def _step(link: Link) -> int:
    """Apply the next migration, if there is one; whoever is interrupted here leaves nothing behind."""
    link.simple(
        f"BEGIN; SET LOCAL lock_timeout = {_MIGRATION_TIMEOUT_MS};"
        f" SET LOCAL statement_timeout = {_MIGRATION_TIMEOUT_MS}; SELECT pg_advisory_xact_lock({LOCK})"
    )
    try:
        link.simple(_OURS)
        version, migrations = _version(link), load_migrations()
        _refuse_newer(link, version)
        if version < len(migrations):
            version, name, script = migrations[version]
            link.simple(in_postgres(script))
            link.simple(f"INSERT INTO schema_migrations VALUES ({version}, '{name}', {NOW_US})")  # noqa: S608
        link.simple("COMMIT")
    except BaseException:
        if link.connected:
            link.simple("ROLLBACK")
        raise
    return version


def _version(link: Link) -> int:
    named = link.simple("SELECT to_regclass('schema_migrations'), to_regclass('commits')")
    if named.get_value(0, 0) is None or named.get_value(0, 1) is None:
        return 0
    found = link.simple("SELECT COALESCE(MAX(version), 0) FROM schema_migrations").get_value(0, 0)
    return int(found or 0)


def _refuse_newer(link: Link, version: int) -> None:
    known = len(load_migrations())
    if version > known:
        message = (
            f"{link.place} has schema version {version}; this version of Bursar knows {known}."
            " Start a newer version, or restore an older backup."
        )
        raise StoreTooNew(message)
