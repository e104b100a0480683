"""Fixtures every level shares."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support.loglines import LineChecker, checked

# How fast this machine is must not decide whether a test passes.
settings.register_profile("bursar", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("bursar")


@pytest.fixture(scope="session")
def corpus() -> Path:
    """The folder of recorded traffic; without it the test is left out, and the summary says so."""
    named = os.environ.get("BURSAR_CORPUS")
    if not named:
        pytest.skip("recorded traffic not available: set BURSAR_CORPUS to run this part")
    folder = Path(named)
    assert (folder / "recordings").is_dir(), f"BURSAR_CORPUS={named} has no recordings/"
    return folder


@pytest.fixture(scope="session", autouse=True)
def _own_settings() -> Iterator[None]:
    """What the machine's environment says about the service is not for the tests."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(("BURSAR_", "ANTHROPIC_")) and name != "BURSAR_CORPUS":
                patch.delenv(name)
        yield


@pytest.fixture(autouse=True)
def log_lines() -> Iterator[LineChecker]:
    """Every log line of the test so far; each of them must be as `log.schema.json` says."""
    with checked() as lines:
        yield lines
