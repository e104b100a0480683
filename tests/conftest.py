"""Fixtures every level shares."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def corpus() -> Path:
    """The folder of recorded traffic; without it the test is left out, and the summary says so."""
    named = os.environ.get("BURSAR_CORPUS")
    if not named:
        pytest.skip("recorded traffic not available: set BURSAR_CORPUS to run this part")
    folder = Path(named)
    assert (folder / "recordings").is_dir(), f"BURSAR_CORPUS={named} has no recordings/"
    return folder
