"""One fresh simulator for each test."""

import pytest

from tests.unit.simulator.driving import Driver


@pytest.fixture
def driver() -> Driver:
    """A simulator in process."""
    return Driver()
