"""Log lines: their form, and what is blotted out of them."""

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from app.domain.task import Subject
from app.journal.call_events import ModelAnswered
from app.journal.events import SessionBudgetSet, TaskFinished
from app.journal.journal import Recorded
from app.journal.views import LogView
from app.observe.logs import (
    REDACTED,
    EventRecord,
    JsonFormatter,
    Redactor,
    configure,
    lines_together,
)
from tests.support.loglines import LineChecker

CANARY = "canary-5d0e-not-a-real-key"
LOOKS_LIKE_A_KEY = "sk-" + "not-a-real-key"
OUR_KEY = "bursar_" + "Not-a_real-Key" * 3 + "0"
AT_US = 1_795_348_800_123_456


def _format(message: str, *, secrets: tuple[str, ...] = (), **extra: Any) -> dict[str, Any]:
    record = logging.makeLogRecord(
        {"name": "somebody", "msg": message, "levelname": "INFO", **extra}
    )
    found: dict[str, Any] = json.loads(JsonFormatter(Redactor(secrets)).format(record))
    return found


class TestRedactor:
    """Credentials do not get out."""

    @pytest.mark.parametrize(
        ("text", "cleaned"),
        [
            (f"key={CANARY}.", f"key={REDACTED}."),
            (f"{CANARY}{CANARY}", REDACTED * 2),
            (f"key={LOOKS_LIKE_A_KEY}", f"key={REDACTED}"),
            (f'"{LOOKS_LIKE_A_KEY}"', f'"{REDACTED}"'),
            (f"line\\n{LOOKS_LIKE_A_KEY}", f"line\\n{REDACTED}"),
            (f"escape\\u001b{LOOKS_LIKE_A_KEY}", f"escape\\u001b{REDACTED}"),
            ("Authorization: Bearer abcdefgh.ijkl", f"Authorization: Bearer {REDACTED}"),
            ("bearer abcdefgh==", f"bearer {REDACTED}"),
            (f"key={OUR_KEY}.", f"key={REDACTED}."),
            (f"/tasks/{OUR_KEY}/events", f"/tasks/{REDACTED}/events"),
            (f"my{OUR_KEY}{OUR_KEY}tail", f"my{REDACTED}{REDACTED}tail"),
            (f"\\n{OUR_KEY}\\u001b", f"\\n{REDACTED}\\u001b"),
            (f"Authorization: Bearer {OUR_KEY}", f"Authorization: Bearer {REDACTED}"),
        ],
    )
    def test_secrets(self, text: str, cleaned: str) -> None:
        """The configured ones, and what looks like one."""
        assert Redactor([CANARY]).clean(text) == cleaned

    @pytest.mark.parametrize(
        "text",
        [
            "task-runner-7 asks",
            "risk-assessment",
            "sk-short",
            "the bearer of",
            "plain",
            OUR_KEY[:-1],
        ],
    )
    def test_words(self, text: str) -> None:
        """Ordinary words and ids stay."""
        assert Redactor([CANARY]).clean(text) == text

    def test_short_secrets(self) -> None:
        """A placeholder of a few letters is not blotted out of every word."""
        assert Redactor(["x", "test"]).clean("a test of x") == "a test of x"


class TestFormatter:
    """One JSON object a line."""

    def test_the_head(self) -> None:
        """Time in UTC with microseconds, level, event, logger; then what was brought along."""
        line = _format("draining", created=AT_US / 1e6, running=3)
        assert list(line) == ["timestamp", "level", "event", "logger", "running"]
        assert line["timestamp"].startswith("2026-11-22T12:00:00.12345")
        assert line["running"] == 3

    def test_one_line(self) -> None:
        """Line ends inside a message do not break the line."""
        record = logging.makeLogRecord({"msg": "two\nlines\r\u2028three"})
        assert "\n" not in JsonFormatter(Redactor()).format(record)

    def test_errors(self) -> None:
        """An exception becomes its type and its trace, without the secrets it quotes."""
        error = ValueError(f"bad {CANARY}\n{LOOKS_LIKE_A_KEY}")
        line = _format("failed", secrets=(CANARY,), exc_info=(ValueError, error, None))
        assert line["error_type"] == "ValueError"
        assert f"ValueError: bad {REDACTED}\n{REDACTED}" in line["traceback"]

    def test_odd_texts(self) -> None:
        """What no encoder likes still becomes a line."""
        line = _format("odd", text="\ud800", number=1 << 70, thing=Path("/x"))
        assert (line["text"], line["number"], line["thing"]) == ("\ud800", 1 << 70, "/x")
        assert _format(f"\ud800{CANARY}", secrets=(CANARY,))["event"] == f"\ud800{REDACTED}"

    def test_arguments(self) -> None:
        """Libraries log sentences with arguments; the event is the sentence."""
        assert _format("%s of %d", args=("one", 2))["event"] == "one of 2"


class TestEvents:
    """Journal events as lines."""

    def test_fields(self, log_lines: LineChecker) -> None:
        """Subject, number, fields; money in USD, absent instead of null, no logger."""
        subject = Subject("task_1", "s", run=2)
        event = ModelAnswered(
            step=1,
            attempt=1,
            model="m",
            stop_reason=None,
            move="finish",
            input_tokens=1,
            output_tokens=2,
            cache_read_tokens=0,
            cache_write_5m_tokens=0,
            cache_write_1h_tokens=0,
            web_searches=0,
            cost_nano=1_234_567_891,
            kind="confirmed",
            price_row="row",
            task_spent_nano=1,
            duration_s=0.123_456_789,
            request_id=None,
        )
        LogView(simulated=False)(Recorded(7, AT_US, subject, event))
        (line,) = log_lines.entries()
        assert (line["task_id"], line["session_id"], line["run"], line["seq"]) == (
            "task_1",
            "s",
            2,
            7,
        )
        assert (line["cost_usd"], line["task_spent_usd"]) == (1.234567891, 1e-9)
        assert line["duration_s"] == 0.123457
        for absent in ("stop_reason", "request_id", "logger", "simulated"):
            assert absent not in line

    def test_simulated(self, log_lines: LineChecker) -> None:
        """Against the simulator every event says so."""
        event = SessionBudgetSet(budget_nano=5, previous_nano=None)
        LogView(simulated=True)(Recorded(1, AT_US, Subject("session/local/s", "s"), event))
        assert log_lines.entries()[0]["simulated"] is True

    def test_level(self, log_lines: LineChecker) -> None:
        """A level that is not wanted costs no line."""
        logging.getLogger().setLevel(logging.ERROR)
        event = TaskFinished("succeeded", "answered", 1, 0, False, 0, 0.0)
        LogView(simulated=True)(Recorded(1, AT_US, Subject("t", "s"), event))
        assert log_lines.entries() == []


class TestConfigure:
    """Where the lines go."""

    @pytest.fixture(autouse=True)
    def _restored(self) -> Iterator[None]:
        root = logging.getLogger()
        handlers, level = root.handlers[:], root.level
        # `configure` closes what it replaces; what belongs to the test run is taken out of its way.
        root.handlers.clear()
        yield
        for handler in root.handlers:
            handler.close()
        root.handlers[:] = handlers
        root.setLevel(level)

    def test_stdout_and_file(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """Both get the same lines; the file's folder is made."""
        file = tmp_path / "logs" / "agent.log"
        configure("INFO", file, Redactor([CANARY]))
        logging.getLogger("app.server").info("service_stopped")
        logging.getLogger("somebody").warning("key %s", CANARY)
        logging.getLogger("somebody").debug("not wanted")
        lines = file.read_text(encoding="utf-8").splitlines()
        assert capsys.readouterr().out.splitlines() == lines
        assert [json.loads(line)["event"] for line in lines] == [
            "service_stopped",
            f"key {REDACTED}",
        ]

    def test_again(self, capsys: pytest.CaptureFixture[str]) -> None:
        """A second call replaces the first: no line is written twice."""
        for _ in range(2):
            configure("INFO", None, Redactor())
        logging.getLogger("somebody").info("once")
        assert len(capsys.readouterr().out.splitlines()) == 1

    def test_lines_of_a_block_are_written_at_its_end(self, tmp_path: Path) -> None:
        """All of them, in order, also when the block fails; a line after it is written as it comes."""
        file = tmp_path / "agent.log"
        configure("INFO", file, Redactor())
        logger = logging.getLogger("somebody")

        def fails() -> None:
            with lines_together():
                for number in range(3):
                    logger.info("line %d", number)
                assert file.read_text(encoding="utf-8") == ""
                raise RuntimeError("in the middle")

        with pytest.raises(RuntimeError, match="middle"):
            fails()
        assert len(file.read_text(encoding="utf-8").splitlines()) == 3
        logger.info("line 3")
        lines = file.read_text(encoding="utf-8").splitlines()
        assert [json.loads(line)["event"] for line in lines] == [f"line {n}" for n in range(4)]

    def test_a_log_that_cannot_be_written_hurts_no_other(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The block's lines are in the others all the same, and nobody who logs hears of it."""
        monkeypatch.setattr(logging, "raiseExceptions", False)  # else it is told on stderr
        file = tmp_path / "agent.log"
        with Path("/dev/full").open("w", encoding="utf-8") as full:
            monkeypatch.setattr(sys, "stdout", full)
            configure("INFO", file, Redactor())
            with lines_together():
                logging.getLogger("somebody").info("kept")
            assert json.loads(file.read_text(encoding="utf-8"))["event"] == "kept"
            with suppress(OSError):
                full.close()

    def test_an_event_can_be_formatted_by_anybody(self) -> None:
        """Its record has every field of an ordinary one, for handlers that other people bring."""
        ordinary = logging.LogRecord("bursar", logging.INFO, "", 0, "task_claimed", (), None)
        event = EventRecord(logging.INFO, "task_claimed", {"run": 1})
        assert vars(ordinary).keys() <= vars(event).keys()
        layout = "%(levelname)s %(name)s %(message)s %(filename)s:%(lineno)d %(threadName)s"
        assert logging.Formatter(layout).format(event).startswith("INFO bursar task_claimed")

    def test_chatter(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Libraries that log every request are heard from their warnings on."""
        configure("INFO", None, Redactor())
        for name in ("httpx", "anthropic", "uvicorn.error", "aiohttp.access"):
            logging.getLogger(name).info("HTTP Request")
            logging.getLogger(name).warning("trouble")
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert {line["event"] for line in lines} == {"trouble"}

    def test_unwritable(self, tmp_path: Path) -> None:
        """A file that cannot be written stops the start."""
        with pytest.raises(IsADirectoryError):
            configure("INFO", tmp_path, Redactor())
