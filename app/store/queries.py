"""Named SQL: every statement of the service, by name, from the files in `sql/`, in words that every database takes."""

import re
from functools import cache
from importlib.resources import files

PARAMETER = re.compile(r"(?<![:\w]):([a-z][a-z0-9_]*)")
"""Finds a parameter's name in a statement without comments."""
_COMMENT = re.compile(r"^\s*--.*$", re.MULTILINE)
_HEADER = re.compile(r"^-- name: ([a-z_]+)$", re.MULTILINE)


@cache
def load_queries(folder: str = "sql") -> dict[str, str]:
    """Name → statement. A name stands once; parameters are written `:like_this`."""
    queries: dict[str, str] = {}
    for file in sorted(files("app.store").joinpath(folder).iterdir(), key=lambda f: f.name):
        parts = _HEADER.split(file.read_text(encoding="utf-8"))
        for name, text in zip(parts[1::2], parts[2::2], strict=True):
            if name in queries:
                message = f"{file.name}: the query {name} exists already"
                raise ValueError(message)
            queries[name] = text.strip().rstrip(";")
    return queries


def bare(query: str) -> str:
    """The statement without its comments."""
    return _COMMENT.sub("", query).strip()


@cache
def load_migrations() -> tuple[tuple[int, str, str], ...]:
    """(version, name, script) of every migration, oldest first; versions count 1, 2, 3, …"""
    found = []
    for file in sorted(files("app.store").joinpath("migrations").iterdir(), key=lambda f: f.name):
        number, _, name = file.name.removesuffix(".sql").partition("_")
        found.append((int(number), name, file.read_text(encoding="utf-8")))
    versions = [version for version, _, _ in found]
    if versions != list(range(1, len(found) + 1)):
        raise ValueError(f"the migrations do not count 1, 2, 3, …: {versions}")
    return tuple(found)
