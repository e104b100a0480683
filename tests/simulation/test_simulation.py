"""A hundred seeds of the simulated world; that a seed replays; that no safeguard could be left out unnoticed."""

import os
import subprocess
import sys

import pytest

from tests.simulation.ablations import ABLATIONS, NothingApart, first_caught
from tests.simulation.world import simulate
from tests.support.process import ROOT

_SEEDS = 100
_SOON = 20
"""Seeds that notice it when one of these is missing."""
_LIMIT_S = 300


def _told(*arguments: str, hash_seed: str = "0") -> str:
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-W", "error", "-m", "tests.simulation", *arguments],
        cwd=ROOT,
        env={"PATH": os.defpath, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=False,
        timeout=_LIMIT_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr, done.stderr
    return done.stdout


@pytest.mark.timeout(_LIMIT_S)
def test_hundred_seeds() -> None:
    """Nothing is lost, paid twice or overdrawn, and the seeds have reached what they are for."""
    assert f"{_SEEDS} seeds" in _told("--seeds", str(_SEEDS))


def test_a_seed_replays_exactly() -> None:
    """Two interpreters with different hashes tell the same run: its steps, and the digest of its books."""
    assert _told("--seed", "20", hash_seed="1") == _told("--seed", "20", hash_seed="2")


def test_a_seed_replays_among_others() -> None:
    """A world leaves nothing for the next one in its process: a seed that failed among many fails alone, too."""
    _, among = simulate(21), simulate(20)
    alone = _told("--seed", "20")
    assert f"{among.steps} steps" in alone
    assert f"digest {among.digest}" in alone


def test_seeds_differ() -> None:
    """Another seed is another world."""
    assert simulate(20).digest != simulate(21).digest


def test_what_takes_safeguards_away_adds_nothing() -> None:
    """A store that could split transactions, and splits none, is found without fault."""
    assert [simulate(seed, NothingApart).violations for seed in range(5)] == [()] * 5


@pytest.mark.timeout(_LIMIT_S)
@pytest.mark.parametrize(
    "name",
    [
        "lost calls presumed spent",
        "idempotency row unique",
        "nothing begun after a cancel",
        "fencing token",
    ],
)
def test_a_missing_safeguard_is_noticed_soon(name: str) -> None:
    """The reckoning can fail: safeguards that a few seeds miss."""
    assert first_caught(name, _SOON) is not None


@pytest.mark.long
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("name", ABLATIONS)
def test_every_missing_safeguard_is_noticed(name: str) -> None:
    """Without any one of them the seeds find a loss."""
    assert first_caught(name) is not None
