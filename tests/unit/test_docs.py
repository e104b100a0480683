"""The documents say what the code does."""

import re
from pathlib import Path

import pytest

from app.settings import Settings, variable
from app.settings_table import table

ROOT = Path(__file__).parents[2]


def test_settings_page_is_the_code() -> None:
    """docs/settings.md is `python -m app config --markdown`."""
    assert (ROOT / "docs" / "settings.md").read_text().endswith(table())


def test_every_setting_says_what_it_is() -> None:
    """No setting without a description."""
    assert not [variable(n) for n, f in Settings.model_fields.items() if not f.description]


TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
"""A test that a document names."""


@pytest.mark.parametrize(("page", "count"), [("replicas.md", 20)])
def test_tests_that_a_page_names_are_there(page: str, count: int) -> None:
    """Who promises something by the name of a test must have that test."""
    named = TEST.findall((ROOT / "docs" / page).read_text())
    assert len(named) >= count
    missing = [
        f"{path}::{name}"
        for path, name in named
        if not re.search(
            rf"^async def {name}\(|^def {name}\(", (ROOT / path).read_text(), re.MULTILINE
        )
    ]
    assert not missing
