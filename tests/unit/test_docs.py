"""The documents say what the code does."""

from pathlib import Path

from app.settings import Settings, variable
from app.settings_table import table

ROOT = Path(__file__).parents[2]


def test_settings_page_is_the_code() -> None:
    """docs/settings.md is `python -m app config --markdown`."""
    assert (ROOT / "docs" / "settings.md").read_text().endswith(table())


def test_every_setting_says_what_it_is() -> None:
    """No setting without a description."""
    assert not [variable(n) for n, f in Settings.model_fields.items() if not f.description]
