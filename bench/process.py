"""Child processes and what the kernel says about them. Linux."""

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parent.parent
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_CPU_CLOCK = 2
"""What a process has used on all its threads, ended ones too: user and system time."""


class ChildFailedError(Exception):
    """A process of the bench ended early or said something unexpected."""


@asynccontextmanager
async def child(
    *arguments: str,
    folder: Path,
    python: str = sys.executable,
    stdout: int | IO[bytes] = asyncio.subprocess.PIPE,
    **variables: str,
) -> AsyncIterator[asyncio.subprocess.Process]:
    """`python arguments…` in `folder` with these environment variables alone; killed at the end."""
    process = await asyncio.create_subprocess_exec(
        python,
        *arguments,
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "LANG": "C.UTF-8", "HOME": str(folder), **variables},
        stdin=asyncio.subprocess.PIPE,
        stdout=stdout,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGKILL)
        await process.wait()


async def line(process: asyncio.subprocess.Process) -> bytes:
    """The next line the process writes.

    Raises:
        ChildFailedError: it ended instead.
    """
    assert process.stdout is not None  # noqa: S101  (piped)
    said = await process.stdout.readline()
    if not said:
        message = f"a process of the bench ended: exit code {await process.wait()}"
        raise ChildFailedError(message)
    return said


async def tell(process: asyncio.subprocess.Process, said: bytes) -> None:
    """Write a line to the process."""
    assert process.stdin is not None  # noqa: S101  (piped)
    process.stdin.write(said + b"\n")
    await process.stdin.drain()


def cpu_s(pid: int) -> float:
    """CPU seconds of a process, user and system, all its threads (the sum of /proc/<pid>/stat, finer)."""
    return time.clock_gettime((~pid << 3) | _CPU_CLOCK)


def rss_bytes(pid: int) -> int:
    """Resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * _PAGE_BYTES


def peak_rss_bytes(pid: int) -> int:
    """The most resident memory that a process ever had."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def tree_cpu_s(pid: int) -> float:
    """CPU seconds of a process and its children, ended ones too."""
    children = sum(cpu_s(child) for child in _children(pid))
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    ended = (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")
    return cpu_s(pid) + children + ended


def _children(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended meanwhile
            parent = stat.read_text(encoding="ascii").rpartition(")")[2].split()[1]
            if int(parent) == pid:
                found.append(int(stat.parent.name))
    return found


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port
