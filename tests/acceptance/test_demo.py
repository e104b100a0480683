"""The demo's own words: what it prints works as printed."""

import asyncio
import json
import shutil
import signal
from pathlib import Path

import pytest

from tests.support.process import answering, free_port, spawn


@pytest.mark.skipif(shutil.which("curl") is None, reason="the demo's command needs curl")
async def test_the_printed_command(tmp_path: Path) -> None:
    """Without a key: the simulator answers, says so everywhere, and the printed curl gets the answer."""
    port = free_port()
    child = await spawn("demo", "--port", str(port), cwd=tmp_path)
    try:
        line = await child.complaint(lambda line: "curl " in line)
        await answering(child, f"http://127.0.0.1:{port}/readyz")
        assert any("SIMULATOR" in told for told in child.err)
        shell = await asyncio.create_subprocess_shell(
            line[line.index("curl ") :],
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            cwd=tmp_path,
        )
        out, _ = await asyncio.wait_for(shell.communicate(), 20)
        head, _, body = out.decode().partition("\r\n\r\n")
        assert head.startswith("HTTP/1.1 200 OK")
        assert "\r\nlocation: /tasks/task_" in head.lower()
        task = json.loads(body)
        assert (task["status"], task["outcome"], task["simulated"]) == (
            "succeeded",
            "answered",
            True,
        )
        assert "supervised and unsupervised" in task["result"]
        started = await child.line(lambda line: '"event":"service_started"' in line)
        assert json.loads(child.out[started])["simulated"] is True
        child.send(signal.SIGTERM)
        assert (await child.ended(10)).code == 0
    finally:
        await child.kill()
