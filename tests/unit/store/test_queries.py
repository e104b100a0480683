"""Named SQL: found by name, each name once."""

import re
from importlib.resources import files

from app.store.queries import load_migrations, load_queries


def test_names_stand_once_and_statements_are_single():
    """Each header is a name of its own with exactly one statement under it."""
    headers = 0
    for file in files("app.store").joinpath("sql").iterdir():
        headers += len(re.findall(r"^-- name:", file.read_text(encoding="utf-8"), re.MULTILINE))
    queries = load_queries()
    assert len(queries) == headers > 20
    for name, statement in queries.items():
        assert re.search(r"\b(SELECT|INSERT|UPDATE|DELETE)\b", statement), name
        assert ";" not in re.sub(r"--.*", "", statement), name


ERASING = {"erase_bodies", "erase_data"}
"""They take content out of events, on the owner's word: see `app.queue.erasing`."""
PRUNING = {"prune_task", "prune_events"}
"""They delete what ended long ago, where a retention is set: see `app.queue.retention`."""
PASSING = {"answers", "workers", "batches", "batch_items"}
"""Tables whose rows are for a time only."""
RESOLVING = {"confirm_line"}
"""A line that was presumed, once its answer came after all. See `app.budget.ledger.confirm`."""


def test_nothing_in_the_ledger_or_the_journal_is_ever_changed():
    """Lines and events are only added, but for what is named above: none is updated, none is deleted."""
    for name, statement in load_queries().items():
        deleted = set(re.findall(r"\bDELETE\s+(?:FROM\s+)?(\w+)", statement))
        assert deleted <= PASSING | ({"tasks", "events"} if name in PRUNING else set()), name
        assert name in RESOLVING or not re.search(r"UPDATE\s+ledger_lines", statement), name
        assert name in ERASING or not re.search(r"UPDATE\s+events", statement), name


def test_only_a_presumed_line_is_resolved_and_it_keeps_its_key_and_its_instant():
    """From presumed to confirmed, nothing else; what it was stays written beside it."""
    for name in RESOLVING:
        changed, _, where = load_queries()[name].partition("WHERE")
        assert "kind = 'confirmed', presumed_nano = amount_nano" in changed
        assert where.endswith("kind = 'presumed'")
        columns = set(re.findall(r"(\w+) = ", changed))
        assert not columns & {
            "task_id",
            "step",
            "attempt",
            "ended",
            "entry",
            "run",
            "scopes",
            "at_us",
        }


def test_an_erasure_changes_content_only():
    """Of an event its body or its data's content, never its number, type, time or run."""
    for name in ERASING:
        changed = re.findall(r"SET (.*) WHERE subject = :subject", load_queries()[name])
        assert changed in (["body = NULL"], ["data = :data"]), name


def test_every_query_that_moves_a_task_names_it():
    """No UPDATE of a task or an account goes without a WHERE; an upsert names its row by the key in conflict."""
    for name, statement in load_queries().items():
        if re.search(r"(?<!DO )UPDATE", statement):
            assert "WHERE" in statement, name


def test_migrations_count_from_one():
    """Versions are 1, 2, 3, … in order, each with a name."""
    found = load_migrations()
    assert [version for version, _, _ in found] == list(range(1, len(found) + 1))
    assert all(name for _, name, _ in found)
