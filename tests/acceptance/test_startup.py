"""What cannot work is refused at the start: one clear sentence each, an exit code, no traceback."""

import asyncio
import json
import os
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.process import NO_KEY, answering, free_port, run, service, spawn

_SIMULATED = {"BURSAR_SIMULATOR": "on"}
_COMMANDS = ("serve", "demo", "simulate", "config", "keys", "openapi", "healthcheck")
_NOWHERE = "http://127.0.0.1:9"
_SHORT_S = 15.0


async def _refused(folder: Path, code: int, *arguments: str, **env: str) -> list[str]:
    """The sentences of a start that is refused with this exit code."""
    left = await run(*(arguments or ("serve", "--port", "0")), cwd=folder, env=env)
    sentences = left.err.splitlines()
    assert left.code == code, left
    assert "Traceback" not in left.err + left.out
    assert sentences
    for sentence in sentences:
        assert sentence.startswith("bursar: "), sentence
        assert sentence.endswith("."), sentence
    return [sentence.removeprefix("bursar: ") for sentence in sentences]


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which somebody listens."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening.getsockname()[1]


@pytest.mark.parametrize("command", ["serve", "simulate"])
async def test_port_in_use(tmp_path: Path, taken: int, command: str) -> None:
    """The sentence names the address."""
    (sentence,) = await _refused(tmp_path, 1, command, "--port", str(taken), **_SIMULATED)
    assert sentence.startswith(f"Cannot listen on 127.0.0.1:{taken}: ")
    assert not (tmp_path / "data").exists()


async def test_unwritable_data_directory(tmp_path: Path) -> None:
    """Below a file, and where not even root can make a folder."""
    (tmp_path / "file").write_text("in the way")
    places = ("file/data", "/proc/bursar")
    starts = (_refused(tmp_path, 1, BURSAR_DATA_DIR=where, **_SIMULATED) for where in places)
    for where, (sentence,) in zip(places, await asyncio.gather(*starts), strict=True):
        assert sentence.startswith(f"The data directory {where} cannot be used: ")


@pytest.mark.parametrize("keep", [0, 4_096])
async def test_corrupt_database(tmp_path: Path, keep: int) -> None:
    """A file that is no database, and a database whose pages are damaged; both are left alone."""
    path = tmp_path / "data" / "bursar.db"
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE t (x TEXT)")
        connection.executemany("INSERT INTO t VALUES (?)", [("x" * 900,) for _ in range(40)])
        connection.commit()
    damaged = path.read_bytes()[:keep] + b"\xa5" * 20_000
    path.write_bytes(damaged)
    (sentence,) = await _refused(tmp_path, 1, **_SIMULATED)
    assert sentence.startswith("data/bursar.db is ")
    assert "Restore a backup, or move it away to start anew." in sentence
    assert path.read_bytes()[4_096:] == damaged[4_096:]


async def test_newer_schema(tmp_path: Path) -> None:
    """A database of a newer version is refused with both versions named, and is left alone."""
    path = tmp_path / "data" / "bursar.db"
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(
            "CREATE TABLE schema_migrations (version INTEGER PRIMARY KEY, name TEXT, applied_at_us BIGINT)"
        )
        connection.execute("INSERT INTO schema_migrations VALUES (9999, 'tomorrow', 0)")
        connection.commit()
    (sentence,) = await _refused(tmp_path, 1, **_SIMULATED)
    assert "has schema version 9999; this version of Bursar knows " in sentence
    with closing(sqlite3.connect(path)) as connection:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        assert tables.fetchall() == [("schema_migrations",)]


async def test_data_directory_in_use(tmp_path: Path) -> None:
    """The second process is told who holds it; the first one goes on."""
    async with service(tmp_path, _NOWHERE) as first:
        child = await first.start()
        (sentence,) = await _refused(tmp_path, 1, **_SIMULATED)
        assert (
            sentence == f"The data directory data is in use by another process (pid {child.pid})."
        )
        async with first.client() as client:
            assert (await client.get("/readyz")).status_code == 200


async def test_nothing_to_talk_to(tmp_path: Path) -> None:
    """No key, no base URL, no simulator: the sentence names all three ways out."""
    (sentence,) = await _refused(tmp_path, 2)
    assert sentence.startswith("There is no model to talk to: set ANTHROPIC_API_KEY")
    assert "ANTHROPIC_BASE_URL" in sentence
    assert "BURSAR_SIMULATOR=on" in sentence
    assert "`make demo`" in sentence
    assert not (tmp_path / "data").exists()


async def test_wrong_settings(tmp_path: Path) -> None:
    """Each wrong setting has its own sentence, with its name; all of them at once. No value is shown."""
    wrong = {
        "ANTHROPIC_API_KEY": NO_KEY,
        "ANTHROPIC_BASE_URL": "ftp://secret-host",
        "BURSAR_DATABASE_URL": "mysql://user:secret-word@host/db",
        "BURSAR_LOG_LEVEL": "loud",
        "BURSAR_PORT": "many",
        "BURSAR_TASK_BUDGET_USD": "NaN",
        "BURSAR_SESSION_BUDGET_USD": "1e999",
        "BURSAR_SERVICE_BUDGET_USD": "-1",
        "BURSAR_WORKERS": "0",
    }
    sentences = await _refused(tmp_path, 2, "serve", **wrong)
    names = {sentence.partition(":")[0] for sentence in sentences}
    assert names == set(wrong) - {"ANTHROPIC_API_KEY"}
    assert "secret" not in "".join(sentences)


@pytest.mark.parametrize(
    "address", ["http://", "http://x:port", "http://x:99999", "http://[::1", "http://a b"]
)
async def test_an_address_that_is_none(tmp_path: Path, address: str) -> None:
    """A base URL that nothing can be reached at stops the start, not each task."""
    (sentence,) = await _refused(tmp_path, 2, ANTHROPIC_BASE_URL=address)
    assert sentence.startswith("ANTHROPIC_BASE_URL: must be an address such as ")


async def test_a_key_no_header_can_carry(tmp_path: Path) -> None:
    """A key with a stray character is named, and not shown."""
    (sentence,) = await _refused(tmp_path, 2, ANTHROPIC_API_KEY="schlüssel")
    assert sentence.startswith("ANTHROPIC_API_KEY: ")
    assert "schlüssel" not in sentence


async def test_bad_price_file(tmp_path: Path) -> None:
    """Every mistake in the price file at once, by model and meter."""
    (tmp_path / "prices.toml").write_text(
        '[models.mine]\ninput = "dear"\noutput = -1\ncolour = 3\n'
    )
    left = await run(
        *("serve", "--port", "0"),
        cwd=tmp_path,
        env={"BURSAR_PRICE_FILE": "prices.toml", **_SIMULATED},
    )
    assert left.code == 2
    sentences = left.err.splitlines()
    assert len(sentences) == 3
    for sentence, meter in zip(sentences, ("colour", "input", "output"), strict=True):
        assert sentence.startswith(f'bursar: prices.toml: model "mine", {meter}: ')


async def test_route_without_a_price(tmp_path: Path) -> None:
    """A route whose model has no price is refused, with what to add."""
    env = {"BURSAR_ROUTE_SIMPLE": "claude-of-tomorrow", **_SIMULATED}
    left = await run("serve", "--port", "0", cwd=tmp_path, env=env)
    assert left.code == 2
    assert left.err.startswith(
        "bursar: BURSAR_ROUTE_SIMPLE: There is no price for model 'claude-of-tomorrow'."
    )
    assert '[models."claude-of-tomorrow"]' in left.err
    assert "Traceback" not in left.err


async def test_unwritable_log_file(tmp_path: Path) -> None:
    """The log file is named with its setting."""
    (tmp_path / "file").write_text("in the way")
    (sentence,) = await _refused(tmp_path, 2, BURSAR_LOG_FILE="file/agent.log", **_SIMULATED)
    assert sentence.startswith("BURSAR_LOG_FILE: ")
    assert "file/agent.log" in sentence


@pytest.mark.parametrize("arguments", [(), ("sevre",), ("serve", "--prot", "1")])
async def test_wrong_usage(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """No command, an unknown one, an unknown option: usage, one sentence, exit code 2."""
    left = await run(*arguments, cwd=tmp_path)
    assert (left.code, left.out) == (2, "")
    assert left.err.startswith("usage: python -m app")
    assert sum("error: " in line for line in left.err.splitlines()) == 1
    if arguments == ("sevre",):
        assert "'sevre'" in left.err
        assert all(command in left.err for command in _COMMANDS)


async def test_help(tmp_path: Path) -> None:
    """Every command explains itself on stdout, plainly, without a terminal."""
    asked: list[tuple[str, ...]] = [("--help",), *((name, "--help") for name in _COMMANDS)]
    told = await asyncio.gather(*(run(*arguments, cwd=tmp_path) for arguments in asked))
    for arguments, left in zip(asked, told, strict=True):
        assert (left.code, left.err) == (0, ""), arguments
        assert left.out.startswith(f"usage: python -m app {arguments[0]}".removesuffix(" --help"))
        assert "\x1b" not in left.out


async def test_a_reader_that_leaves_early(tmp_path: Path) -> None:
    """Output into a pipe that nobody reads any more is no failure, and nothing is said about it."""
    read, write = os.pipe()
    os.close(read)
    try:
        env = {"ANTHROPIC_API_KEY": NO_KEY}
        commands = ("--help", "config", "openapi")
        ends = (run(command, cwd=tmp_path, env=env, stdout=write) for command in commands)
        for left in await asyncio.gather(*ends):
            assert (left.code, left.err) == (0, "")
    finally:
        os.close(write)


async def test_config_masks_secrets(tmp_path: Path) -> None:
    """What is in force as JSON on stdout, the key masked; a typo is told on stderr."""
    env = {"ANTHROPIC_API_KEY": NO_KEY, "BURSAR_WORKERS": "7", "BURSAR_WORKRES": "9"}
    left = await run("config", cwd=tmp_path, env=env)
    assert left.code == 0
    shown = json.loads(left.out)
    assert shown["BURSAR_WORKERS"] == 7
    assert shown["BURSAR_SIMULATOR"] == "off"
    assert shown["ANTHROPIC_API_KEY"]
    assert NO_KEY not in left.out + left.err
    assert "Did you mean BURSAR_WORKERS?" in left.err


async def test_healthcheck(tmp_path: Path) -> None:
    """1 without a service, 0 with one that is ready, silent then."""
    env = {"ANTHROPIC_API_KEY": NO_KEY, "ANTHROPIC_BASE_URL": _NOWHERE}
    port = free_port()
    asked = {**env, "BURSAR_PORT": str(port)}
    (sentence,) = await _refused(tmp_path, 1, "healthcheck", **asked)
    assert sentence.startswith("Not reachable: ")
    child = await spawn("serve", cwd=tmp_path, env=asked)
    try:
        await answering(child, f"http://127.0.0.1:{port}/readyz", timeout_s=_SHORT_S)
        left = await run("healthcheck", cwd=tmp_path, env=asked)
        assert (left.code, left.out, left.err) == (0, "", "")
    finally:
        await child.kill()


def test_what_only_replicas_need_is_loaded_by_replicas() -> None:
    """The driver of PostgreSQL and the dispatcher take 40 MB: on SQLite they stay on the disk."""
    code = "import sys, app.server; print({'psycopg', 'sqlalchemy', 'dbos'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603
    assert done.stdout.strip() == "set()"
