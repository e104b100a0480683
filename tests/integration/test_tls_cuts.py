"""A TLS connection that is cut in mid-answer: the answer may be billed, so it is booked, and asked again."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from app.domain.clock import SystemClock
from app.simulator.core import Simulator
from app.simulator.server import start
from tests.support.clock import FakeClock
from tests.support.desk import prices
from tests.support.service import Running, started_at
from tests.support.tls import Break, Cut, TlsFront, certificate, tls_front

WAYS = pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
CUTS = pytest.mark.parametrize("cut", list(Cut), ids=[cut.value for cut in Cut])


@asynccontextmanager
async def behind_tls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, stream: bool = False, trusted: bool = True
) -> AsyncIterator[tuple[Running, TlsFront]]:
    """A service whose upstream is the simulator behind TLS. What it trusts comes from `SSL_CERT_FILE`."""
    made, key = certificate(tmp_path)
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(made))
    simulator = Simulator(SystemClock())
    upstream = await start(simulator)
    given: dict[str, Any] = {
        "anthropic_api_key": "key-of-a-test",
        "stream_above_tokens": 1 if stream else 100_000,
        "retry_attempts": 2,
        "workers": 1,
    }
    try:
        async with (
            tls_front(upstream.port, made, key) as front,
            started_at(front.url, simulator, tmp_path / "data", **given) as bursar,
        ):
            yield bursar, front
    finally:
        await upstream.close()


def settlements(bursar: Running) -> list[dict[str, Any]]:
    """The ledger's lines, in the order of the attempts."""
    return bursar.rows(
        "SELECT kind, amount_nano, surplus_nano, input_tokens, output_tokens FROM ledger_lines"
        " WHERE entry = 'settlement' ORDER BY attempt"
    )


def booked_exactly(bursar: Running, lost: int) -> None:
    """The attempts after those that were lost are the bill's, to the nano-dollar; nothing stays reserved."""
    billed = [line.nano for line in bursar.simulator.bill.lines]
    lines = settlements(bursar)
    assert len(lines) == len(billed)
    for line, nano in list(zip(lines, billed, strict=True))[lost:]:
        assert (line["kind"], line["amount_nano"], line["surplus_nano"]) == ("confirmed", nano, 0)
    (account,) = bursar.rows("SELECT * FROM accounts WHERE scope = 'task'")
    assert account["reserved_nano"] == 0
    assert account["spent_nano"] == sum(line["amount_nano"] for line in lines)
    assert sum(billed) <= account["spent_nano"] <= account["limit_nano"]


@CUTS
@pytest.mark.parametrize("share", [0.0, 0.9], ids=["before its head", "in its body"])
async def test_a_plain_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: Cut, share: float
) -> None:
    """Booked as presumed, at the whole reservation, and asked once more."""
    async with behind_tls(tmp_path, monkeypatch) as (bursar, front):
        front.breaks.append(Break(cut, share))
        task = await bursar.run(max_tokens=500)
        assert task["outcome"] == "answered"
        lost, _ = settlements(bursar)
        reserved = bursar.rows(
            "SELECT amount_nano FROM ledger_lines WHERE entry = 'reservation' AND attempt = 1"
        )
        assert (lost["kind"], [lost]) == ("presumed", [lost | reserved[0]])
        assert lost["amount_nano"] > bursar.simulator.bill.lines[0].nano
        booked_exactly(bursar, lost=1)
    assert (front.passed_bytes[0] > 0) is (share > 0)


@CUTS
async def test_a_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: Cut) -> None:
    """It had told its prompt: booked as estimated, at that prompt and all of its `max_tokens`; nothing of it is used."""
    async with behind_tls(tmp_path, monkeypatch, stream=True) as (bursar, front):
        front.breaks.append(Break(cut, 0.7))
        task = await bursar.run(max_tokens=500)
        assert task["outcome"] == "answered"
        lost, answered = settlements(bursar)
        assert (lost["kind"], lost["input_tokens"]) == ("estimated", answered["input_tokens"])
        rates = prices().row(task["model"], FakeClock.today()).rates
        exact = lost["input_tokens"] * rates.input + 500 * rates.output
        assert lost["amount_nano"] == -(-exact // 1_000_000)
        booked_exactly(bursar, lost=1)


@WAYS
async def test_every_answer_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    """The task fails after its attempts, each of them booked."""
    async with behind_tls(tmp_path, monkeypatch, stream=stream) as (bursar, front):
        front.breaks.extend([Break(Cut.FIN, 0.7)] * 2)
        task = await bursar.run(max_tokens=500)
        assert (task["outcome"], task["error"]["type"]) == ("upstream_failed", "answer_lost")
        booked_exactly(bursar, lost=2)
        assert len(settlements(bursar)) == 2


async def test_nothing_is_spent_on_one_that_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The certificate counts: without it among those that are trusted no request leaves."""
    async with behind_tls(tmp_path, monkeypatch, trusted=False) as (bursar, _front):
        task = await bursar.run(deadline_s=25)
        assert (task["outcome"], task["error"]["type"]) == ("upstream_failed", "connection_error")
        assert settlements(bursar) == []
        assert bursar.simulator.seen_count == 0
