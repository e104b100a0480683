"""Every query the API asks with somebody's parameters names the owner: 404 across owners begins here."""

import ast
import re
from pathlib import Path

import pytest

from app.store.queries import load_queries

ROOT = Path(__file__).parents[3]
OWNED = re.compile(
    r"\b(?:FROM|JOIN|UPDATE|INTO)\s+(?:tasks|sessions|ledger_lines)\b", re.IGNORECASE
)
PARAMETER = re.compile(r":[a-z_]+")
COMPARED = re.compile(r"\bowner = :owner\b")
OPERATORS = {"queue_state", "reserved_now"}
"""What /metrics counts and sums up, over all owners: they take no parameter and show no row."""


def _texts(file: Path) -> set[str]:
    """Every string in the module; of an f-string its parts."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


def _asked_by(*packages: str) -> dict[str, str]:
    """Name → SQL of the queries that these packages name, as a whole or by a beginning such as `usage_by_`."""
    files = [file for package in packages for file in (ROOT / "app" / package).glob("*.py")]
    texts = {text for file in files for text in _texts(file) if re.fullmatch(r"[a-z_]{4,}", text)}
    return {
        name: sql
        for name, sql in load_queries().items()
        if name in texts or any(name.startswith(f"{text.removesuffix('_')}_by_") for text in texts)
    }


def _owned(sql: str) -> bool:
    if re.match(r"\s*INSERT\b", sql, re.IGNORECASE):
        return ":owner" in sql
    return len(COMPARED.findall(sql)) == 1 or not PARAMETER.search(sql)


def _code(sql: str) -> str:
    return "\n".join(line for line in sql.splitlines() if not line.lstrip().startswith("--"))


def test_the_api_asks_for_rows_by_owner() -> None:
    """Nothing that reads or writes tasks, sessions or ledger lines lacks the owner."""
    asked = {name: _code(sql) for name, sql in _asked_by("api").items()}
    touching = {name: sql for name, sql in asked.items() if OWNED.search(sql)}
    assert {"read_task", "read_session", "ledger_of_task", "usage_of_task"} <= set(touching)
    assert {"list_tasks_by_session_and_status", "usage_by_day"} <= set(touching)
    assert [name for name, sql in touching.items() if not _owned(sql)] == []
    unfiltered = {name for name, sql in touching.items() if ":owner" not in sql}
    assert unfiltered == OPERATORS


@pytest.mark.parametrize(
    ("sql", "owned"),
    [
        ("SELECT * FROM tasks WHERE id = :id", False),
        ("SELECT * FROM tasks WHERE id = :id AND owner = :owner", True),
        ("SELECT * FROM tasks WHERE id = :id OR owner <> :owner", False),
        ("UPDATE tasks SET owner = owner WHERE id = :id", False),
        ("INSERT INTO sessions (owner, id) VALUES (:owner, :id)", True),
        ("SELECT COUNT(*) FROM tasks", True),
    ],
)
def test_the_test_tells_them_apart(sql: str, *, owned: bool) -> None:
    """A query without the owner would be found."""
    assert OWNED.search(sql)
    assert _owned(sql) is owned
