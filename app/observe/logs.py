"""JSON log lines: one object a line on stdout and, if set, in a file. `log.schema.json` is their schema.

Nothing secret gets out: known shapes of credentials and the configured ones are blotted out of every line.
"""

import json
import logging
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import Any, ClassVar, TextIO

from pythonjsonlogger.core import RESERVED_ATTRS, merge_record_extra
from pythonjsonlogger.orjson import OrjsonFormatter

from app.domain.clock import US_PER_S, SystemClock, rfc3339

EVENT_LOGGER = "bursar"
"""Events are logged here; everything else under its module's name."""
REDACTED = "[redacted]"
# Not inside a word (`task-…`), but right after an escape of JSON (`\n`, `\u001b`).
_CREDENTIAL = re.compile(
    r"(?:(?<![A-Za-z0-9])|(?<=\\[bfnrt])|(?<=\\u[0-9a-f]{4}))sk-[A-Za-z0-9_-]{8,}"
    r"|(?<=[Bb]earer )[A-Za-z0-9._~+/-]{8,}=*"
    r"|bursar_[A-Za-z0-9_-]{43}"  # our own keys, wherever they stand
)
_CLOCK = SystemClock()
_SECRET_LENGTH = 8
"""A shorter configured secret is a placeholder; blotting it out would spoil ordinary words."""


class Redactor:
    """Blots out credentials. `secrets` are the configured ones, whatever their shape."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets = tuple(s for s in secrets if len(s) >= _SECRET_LENGTH)

    def clean(self, text: str) -> str:
        """`text` without credentials."""
        for secret in self._secrets:
            if secret in text:
                text = text.replace(secret, REDACTED)
        if "sk-" in text or "earer " in text or "bursar_" in text:
            text = _CREDENTIAL.sub(REDACTED, text)
        return text


class JsonFormatter(OrjsonFormatter):
    """`timestamp`, `level`, `event`, then what the record brings along."""

    def __init__(self, redactor: Redactor) -> None:
        super().__init__()
        self._redactor = redactor
        self._reserved = {*RESERVED_ATTRS, "taskName", "fields"}

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "timestamp": rfc3339(int(record.created * US_PER_S)),
            "level": record.levelname,
            "event": record.getMessage(),
        }
        fields: dict[str, Any] | None = getattr(record, "fields", None)
        if fields is not None:
            line.update(fields)
        else:
            line["logger"] = record.name
            merge_record_extra(record, line, reserved=self._reserved)
            if record.exc_info and record.exc_info[0] is not None:
                line["error_type"] = record.exc_info[0].__name__
                line["traceback"] = self.formatException(record.exc_info)
        try:
            text = self.jsonify_log_record(line)
        except TypeError:  # a lone surrogate, a number beyond 64 bits: no reason to lose the line
            text = json.dumps(line, default=str)
        return self._redactor.clean(text)


class EventRecord(logging.LogRecord):
    """A log record of an event, without what no line of ours shows: to find that out costs more than the line."""

    _ABSENT: ClassVar = vars(logging.LogRecord("", 0, "", 0, "", (), None))

    def __init__(self, level: int, event: str, shown: Mapping[str, Any]) -> None:
        # Not the inherited one: see above.
        now_s = _CLOCK.now_us() / US_PER_S
        self.__dict__.update(
            self._ABSENT,
            name=EVENT_LOGGER,
            msg=event,
            levelno=level,
            levelname=logging.getLevelName(level),
            created=now_s,
            msecs=now_s % 1 * 1_000,
            fields=shown,
        )


class _Together(logging.Handler):
    """Writes a line as it comes, or those within `lines_together` at once."""

    held = False

    def flush(self) -> None:
        if not _Together.held:
            super().flush()


class _Stdout(_Together, logging.StreamHandler[TextIO]):
    pass


class _File(_Together, WatchedFileHandler):
    pass


@contextmanager
def lines_together() -> Iterator[None]:
    """The lines of this block are written at its end, with one write for all of them."""
    _Together.held = True
    try:
        yield
    finally:
        _Together.held = False
        for handler in logging.getLogger().handlers:
            try:
                handler.flush()
            except Exception:  # noqa: BLE001  (a full disk under one log is no reason to lose the others)
                handler.handleError(EventRecord(logging.ERROR, "flush", {}))


def configure(level: str, file: Path | None, redactor: Redactor) -> None:
    """Send every log record of the process to stdout, and to `file` too, as JSON lines.

    Raises:
        OSError: the file cannot be written.
    """
    # No line shows these, and each record would look them up.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handlers: list[logging.Handler] = [_Stdout(sys.stdout)]
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        handlers.append(_File(file, encoding="utf-8"))
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
        old.close()
    for handler in handlers:
        handler.setFormatter(JsonFormatter(redactor))
        root.addHandler(handler)
    root.setLevel(level)
    for chatty in (
        "uvicorn.error",
        "httpx",
        "httpx2",
        "httpcore",
        "anthropic",
        "asyncio",
        "aiohttp.access",
    ):
        logging.getLogger(chatty).setLevel(logging.WARNING)
