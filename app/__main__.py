"""The command line: python -m app serve | api | worker | demo | simulate | config | keys | backup | restore | doctor | ….

`python -m app --help` lists all of them.
"""

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from app import __version__, needs
from app import settings as configuration
from app.budget import keys_command
from app.domain.errors import NotFound, StoreError
from app.domain.period import instant_us
from app.settings_table import table
from app.store.port import Store
from app.upkeep import commands as upkeep
from app.upkeep import prune_command

EXIT_FAILED = 1
EXIT_USAGE = 2


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 failed, 2 wrong settings or usage."""
    try:
        try:
            return _command(arguments)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # who read it has seen enough; nothing may be flushed again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _command(arguments: list[str] | None) -> int:
    chosen = _parser().parse_args(arguments)
    try:
        code: int = chosen.run(chosen)
    except configuration.SettingsError as error:
        return _complain(error.problems, EXIT_USAGE)
    except (StoreError, NotFound) as error:
        return _complain([str(error)], EXIT_FAILED)
    except KeyboardInterrupt:
        return EXIT_FAILED
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m app",
        description="Bursar runs Claude agents for other programs.",
        epilog="Settings come from the environment and .env; `config` prints what is in force.",
    )
    parser.add_argument("--version", action="version", version=f"bursar {__version__}")
    commands = parser.add_subparsers(required=True, metavar="command")
    for name, run, text in (
        ("serve", _serve, "run the service"),
        ("api", _api, "take tasks in, for workers that share BURSAR_DATABASE_URL"),
        ("worker", _worker, "run tasks of the API that shares BURSAR_DATABASE_URL"),
        ("demo", _demo, "run the service; without a key against the built-in simulator"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("--host", help="address to listen on (BURSAR_HOST)")
        command.add_argument("--port", type=int, help="port to listen on (BURSAR_PORT)")
        command.set_defaults(run=run)
    simulate = commands.add_parser("simulate", help="run the simulator alone, on loopback")
    simulate.add_argument("--host", default="127.0.0.1")
    simulate.add_argument("--port", type=int, default=8787)
    simulate.add_argument("--seed", type=int, default=0, help="same seed, same ids and faults")
    simulate.set_defaults(run=_simulate)
    config = commands.add_parser("config", help="print the settings in force, secrets masked")
    config.add_argument("--markdown", action="store_true", help="print all settings as a table")
    config.set_defaults(run=_config)
    keys_command.add_parser(commands, _open_store)
    upkeep.add_parsers(commands, _embedded_data)
    prune_command.add_parser(commands, _open_kept)
    openapi = commands.add_parser("openapi", help="print the API's description")
    openapi.set_defaults(run=_openapi)
    doctor = commands.add_parser("doctor", help="hold what is written down against itself")
    doctor.add_argument("--json", action="store_true", help="for programs")
    doctor.set_defaults(run=_doctor)
    _add_reprice(commands.add_parser("reprice", help="price the history by another price table"))
    health = commands.add_parser("healthcheck", help="exit 0 when the service here is ready")
    health.set_defaults(run=_healthcheck)
    return parser


def _add_reprice(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--prices", required=True, type=Path, metavar="FILE", help="as BURSAR_PRICE_FILE has it"
    )
    for name, dest, text in (
        ("--from", "since", "settled at this date or RFC 3339 instant, or later"),
        ("--to", "until", "settled before this date or instant"),
    ):
        command.add_argument(name, dest=dest, type=_instant, metavar="WHEN", help=text)
    command.add_argument("--json", action="store_true", help="for programs")
    command.set_defaults(run=_reprice)


def _instant(text: str) -> int:
    try:
        return instant_us(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _serve(chosen: argparse.Namespace) -> int:
    return _run_service(chosen)


def _api(chosen: argparse.Namespace) -> int:
    return _run_service(chosen, configuration.Role.API)


def _worker(chosen: argparse.Namespace) -> int:
    return _run_service(chosen, configuration.Role.WORKER)


def _demo(chosen: argparse.Namespace) -> int:
    return _run_service(chosen, demo=True)


def _run_service(
    chosen: argparse.Namespace,
    role: configuration.Role = configuration.Role.SERVE,
    *,
    demo: bool = False,
) -> int:
    given = {k: v for k in ("host", "port") if (v := getattr(chosen, k)) is not None}
    settings = configuration.load(**given)
    if demo and settings.simulator == "off":
        settings = configuration.load(simulator="auto", **given)
    needs.require_provider(settings)
    needs.require_shared(settings, role)
    # Loading the SDK takes a second: say no to a taken port before that.
    from app import server  # noqa: PLC0415
    from app.observe.logs import Redactor, configure  # noqa: PLC0415

    try:
        address = server.listen(settings)
        configure(settings.log_level, settings.log_file, Redactor(settings.secrets()))
    except server.AddressTakenError as error:
        return _complain([str(error)], EXIT_FAILED)
    except OSError as error:
        sentence = f"BURSAR_LOG_FILE: {settings.log_file} cannot be written ({error.strerror})."
        return _complain([sentence], EXIT_USAGE)
    if demo:
        _say(_welcome(settings, address.getsockname()[1]))
    _run(lambda: server.serve(settings, address, role))
    return 0


def _welcome(settings: configuration.Settings, port: int) -> str:
    url = _url(settings.host, port)
    who = (
        "the built-in SIMULATOR: no key, no cost"
        if settings.simulated
        else "a real model: this costs money"
    )
    body = '{"task":"Explain supervised and unsupervised learning.","complexity":"simple"}'
    return f"""
  Bursar {__version__} answers with {who}.

  Docs       {url}/docs
  Try it     curl -i -X POST {url}/tasks -H 'content-type: application/json' -H 'prefer: wait=10' -d '{body}'
  Stop       Ctrl-C
"""


def _url(host: str, port: int) -> str:
    """Where somebody on this machine reaches a service that listens on `host`."""
    here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"http://[{here}]:{port}" if ":" in here else f"http://{here}:{port}"


def _simulate(chosen: argparse.Namespace) -> int:
    from app.simulator.server import RunningServer, serve  # noqa: PLC0415

    async def simulate() -> None:
        started: asyncio.Future[RunningServer] = asyncio.get_running_loop().create_future()
        serving = asyncio.create_task(
            serve(chosen.host, chosen.port, chosen.seed, started=started), name="simulator"
        )
        first: set[asyncio.Future[Any]] = {serving, started}
        await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        if started.done():
            _say(f"Simulated Messages API on {started.result().url} (its bill: /simulator/bill)")
        await serving

    try:
        _run(simulate)
    except OSError as error:
        return _complain(
            [f"Cannot listen on {chosen.host}:{chosen.port}: {error.strerror}."], EXIT_FAILED
        )
    return 0


def _config(chosen: argparse.Namespace) -> int:
    if chosen.markdown:
        sys.stdout.write(table())
        return 0
    shown = configuration.load().shown()
    sys.stdout.write(json.dumps(shown, indent=2, default=str) + "\n")
    for sentence in configuration.unknown_variables():
        _say(sentence)
    return 0


def _open_store(make: bool) -> keys_command.Opened:  # noqa: FBT001  (a callback's one argument)
    from app.opening import store_beside  # noqa: PLC0415

    settings = configuration.load()
    store = store_beside(settings, make=make)
    return keys_command.Opened(store, settings.budget_warning_percent)


def _open_kept() -> tuple[Store, int | None]:
    from app.opening import store_beside  # noqa: PLC0415

    settings = configuration.load()
    return store_beside(settings, make=False), settings.retention_days


def _embedded_data() -> Path:
    settings = configuration.load()
    if settings.database_url is not None:
        raise configuration.SettingsError([_NOT_EMBEDDED])
    return settings.data_dir


_NOT_EMBEDDED = (
    "BURSAR_DATABASE_URL is set, and this command copies the embedded database only: back PostgreSQL up with "
    "pg_dump (or continuous archiving), and restore it with pg_restore."
)


def _openapi(_chosen: argparse.Namespace) -> int:
    from app.api.app import openapi  # noqa: PLC0415

    sys.stdout.write(json.dumps(openapi(__version__), indent=2, ensure_ascii=False) + "\n")
    return 0


def _doctor(chosen: argparse.Namespace) -> int:
    from app.doctor import examination  # noqa: PLC0415

    report = examination.examine(configuration.load().place)
    if chosen.json:
        sys.stdout.write(json.dumps(examination.as_json(report), indent=2) + "\n")
    else:
        sys.stdout.write(examination.as_text(report))
    return 0 if report.sound else _complain(examination.complaints(report), EXIT_FAILED)


def _reprice(chosen: argparse.Namespace) -> int:
    from app import reprice  # noqa: PLC0415
    from app.llm.price_overrides import PriceFileError  # noqa: PLC0415
    from app.llm.pricing import PriceBook  # noqa: PLC0415

    since_us = 0 if chosen.since is None else chosen.since
    until_us = reprice.END_US if chosen.until is None else chosen.until
    if since_us >= until_us:
        return _complain(["--from must be before --to."], EXIT_USAGE)
    place = configuration.load().place
    try:
        prices = PriceBook.load(chosen.prices)
    except PriceFileError as error:
        return _complain(list(error.mistakes), EXIT_USAGE)
    report = reprice.examine(place, prices, from_us=since_us, to_us=until_us)
    if chosen.json:
        sys.stdout.write(json.dumps(reprice.as_json(report), indent=2) + "\n")
    else:
        sys.stdout.write(reprice.as_text(report))
    if not report.missing:
        return 0
    names = ", ".join(sorted(report.missing))
    count = report.total.unpriced.lines
    return _complain([f"{count} lines were not repriced: no price for {names}."], EXIT_FAILED)


def _healthcheck(_chosen: argparse.Namespace) -> int:
    import httpx  # noqa: PLC0415

    settings = configuration.load()
    ready = _url(settings.host, settings.port) + "/readyz"
    try:
        answer = httpx.get(ready, timeout=5, trust_env=False)
    except httpx.HTTPError as error:
        return _complain([f"Not reachable: {error}."], EXIT_FAILED)
    return 0 if answer.is_success else _complain([answer.text], EXIT_FAILED)


def _run(work: Callable[[], Awaitable[None]]) -> None:
    try:
        import uvloop  # noqa: PLC0415
    except ImportError:  # not on this platform: asyncio's own loop does
        loop_factory = None
    else:
        loop_factory = uvloop.new_event_loop

    async def run() -> None:
        await work()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(run())


def _say(text: str) -> None:
    """To people, on stderr: stdout has the JSON log, or the data asked for."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def _complain(sentences: list[str], code: int) -> int:
    for sentence in sentences:
        _say(f"bursar: {sentence}")
    return code


if __name__ == "__main__":
    sys.exit(main())
