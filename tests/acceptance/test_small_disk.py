"""A real process on a real small disk that fills up. Mounting one needs the right to: then it fails and says so."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.domain.clock import SystemClock
from tests.acceptance.books import check_all, opened, read_books
from tests.acceptance.client import all_ended, bill_of, set_faults, submit
from tests.support.process import service, simulator

pytestmark = pytest.mark.long

_CLOCK = SystemClock()
_SIZE_BYTES = 64 * 1024 * 1024
_CYCLES = 20
_BODY: dict[str, Any] = {
    "task": 'Work it out. [[sim {"steps": 3, "parallel": 2}]]',
    "complexity": "simple",
    "tools": ["calculator", "text_stats"],
}


async def _run(*command: str) -> None:
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    _, said = await process.communicate()
    assert process.returncode == 0, f"{' '.join(command)}: {said.decode()}"


@pytest.fixture
async def disk(tmp_path: Path) -> AsyncIterator[Path]:
    """A disk of 64 megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    await _run("mount", "-t", "tmpfs", "-o", f"size={_SIZE_BYTES}", "tmpfs", str(folder))
    try:
        yield folder
    finally:
        await _run("umount", str(folder))


def _fill(ballast: Path) -> None:
    """Take all the room there is."""
    with ballast.open("ab", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4_096))
        except OSError:
            return


async def _until(client: httpx.AsyncClient, status: int, limit_s: float) -> None:
    """Wait until the service says that it is ready, or that it is not."""
    since_s = _CLOCK.monotonic_s()
    while (await client.get("/readyz")).status_code != status:
        assert _CLOCK.monotonic_s() - since_s < limit_s
        assert (await client.get("/healthz")).status_code == 200


@pytest.mark.timeout(600)
async def test_a_small_disk_fills_up_again_and_again(tmp_path: Path, disk: Path) -> None:
    """Full under running tasks, then empty again: typed refusals, work again within ten seconds, books that agree."""
    accepted, refused = set(), 0
    ballast = disk / "ballast"
    async with simulator(tmp_path) as upstream:
        usual = {"kind": "latency", "delay_s": [0, 0.3], "probability": 1}
        await set_faults(upstream, random=[usual], seed=6)
        env = {"BURSAR_DATA_DIR": str(disk), "BURSAR_DISK_FLOOR_BYTES": "0"}
        async with service(tmp_path, str(upstream.base_url), **env) as bursar:
            await bursar.start()
            async with bursar.client() as client:
                for _ in range(_CYCLES):
                    accepted |= {await submit(client, _BODY) for _ in range(4)}
                    await asyncio.to_thread(_fill, ballast)
                    large = {"task": "Fill. " * 10_000}
                    async with asyncio.timeout(30):
                        while (answer := await client.post("/tasks", json=large)).is_success:
                            accepted.add(answer.json()["id"])
                    assert answer.status_code == 507, answer.text
                    assert int(answer.headers["retry-after"]) > 0
                    refused += 1
                    ballast.unlink()
                    await _until(client, 200, 10)
                tasks = await all_ended(client, accepted)
            assert (await bursar.stop()).code == 0
            path = disk / "bursar.db"
            check_all(read_books(path, await bill_of(upstream)), accepted)
            with opened(path) as connection:
                assert connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    assert {task["outcome"] for task in tasks} == {"answered"}
    assert refused == _CYCLES
