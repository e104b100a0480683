"""The operator's price file: TOML, USD per million tokens, one table a model.

[models."my-model"]
input = "1.00"
output = "5.00"
cache_read = "0.10"          # these three may be left out, here and below: see `pricing`
cache_write_5m = "1.25"
cache_write_1h = "2.00"
long_context = { above_tokens = 100000, input = "2.00", output = "10.00" }
fast = { input = "2.00", output = "10.00" }
web_search = "0.01"          # USD a search
"""

import tomllib
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from app.domain.record import record

METERS = ("input", "output", "cache_read", "cache_write_5m", "cache_write_1h")
NANO_PER_MTOK_USD = 1_000_000_000
USD_LIMIT = 1_000_000
_DECIMALS = 9
_REQUIRED = ("input", "output")
_LONG_KEYS = (*METERS, "above_tokens")
_MODEL_KEYS = (*METERS, "long_context", "fast", "web_search")
_PER_MTOK, _PER_SEARCH = 'USD per million tokens, such as "1.25"', 'USD a search, such as "0.01"'


@record(frozen=True, slots=True)
class FilePrice:
    """One model's prices as written: nano-dollars per million tokens by meter, absent ones absent."""

    meters: dict[str, int]
    long_meters: dict[str, int] | None = None
    long_above_tokens: int | None = None
    fast_meters: dict[str, int] | None = None
    web_search_nano: int | None = None
    """Nano-dollars a search."""


class PriceFileError(Exception):
    """The price file has mistakes; `mistakes` has one sentence for each, and `str()` all of them."""

    def __init__(self, mistakes: list[str]) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = tuple(mistakes)


def read_price_file(path: Path) -> dict[str, FilePrice]:
    """Read the prices by model name (in lower case).

    Raises:
        PriceFileError: unreadable, not TOML, or any key or value that is wrong; all are collected.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"), parse_float=Decimal)
    except (OSError, UnicodeDecodeError) as error:
        raise PriceFileError([f"{path.name}: cannot be read: {error}"]) from error
    except ValueError as error:  # TOML's own error, and a number of too many digits
        raise PriceFileError([f"{path.name}: is not TOML: {error}"]) from error
    reader = _Reader(path.name)
    prices = reader.document(document)
    if reader.mistakes:
        raise PriceFileError(reader.mistakes)
    return prices


class _Reader:
    """Walks the document and notes every mistake, so that one start shows them all."""

    def __init__(self, file: str) -> None:
        self._file = file
        self.mistakes: list[str] = []

    def document(self, document: dict[str, Any]) -> dict[str, FilePrice]:
        for key in document.keys() - {"models"}:
            self._note(f"'{key}' is not known; prices stand under [models.\"<name>\"]")
        models = document.get("models", {})
        if not isinstance(models, dict):
            self._note("'models' must be a table with one table for each model")
            return {}
        prices: dict[str, FilePrice] = {}
        for model, table in models.items():
            price = self._model(model, table)
            if model.lower() in prices:
                self._note(f'model "{model}": is there twice (names ignore upper and lower case)')
            if price is not None:
                prices[model.lower()] = price
        return prices

    def _model(self, model: str, table: object) -> FilePrice | None:
        where = f'model "{model}"'
        if not model.strip():
            self._note(f"{where}: the name is empty")
        if not isinstance(table, dict):
            self._note(f"{where}: must be a table with input and output prices")
            return None
        self._known(where, table, _MODEL_KEYS)
        long_meters, above_tokens = self._long(f"{where}, long_context", table.get("long_context"))
        return FilePrice(
            self._meters(where, table),
            long_meters,
            above_tokens,
            self._fast(f"{where}, fast", table.get("fast")),
            self._search(f"{where}, web_search", table.get("web_search")),
        )

    def _long(self, where: str, table: object) -> tuple[dict[str, int] | None, int | None]:
        if table is None:
            return None, None
        if not isinstance(table, dict):
            self._note(f"{where}: must be a table with above_tokens, input and output")
            return None, None
        self._known(where, table, _LONG_KEYS)
        return self._meters(where, table), self._above_tokens(where, table)

    def _fast(self, where: str, table: object) -> dict[str, int] | None:
        if table is None:
            return None
        if not isinstance(table, dict):
            self._note(f"{where}: must be a table with input and output")
            return None
        self._known(where, table, METERS)
        return self._meters(where, table)

    def _search(self, where: str, price: object) -> int | None:
        return None if price is None else self._nano(where, price, _PER_SEARCH)

    def _known(self, where: str, table: dict[str, Any], keys: tuple[str, ...]) -> None:
        for key in sorted(table.keys() - set(keys)):
            self._note(f"{where}, {key}: is not known; known are {', '.join(keys)}")

    def _above_tokens(self, where: str, table: dict[str, Any]) -> int:
        value = table.get("above_tokens")
        if type(value) is not int or value < 1:
            self._note(f"{where}, above_tokens: must be a whole number of tokens, at least 1")
            return 1
        return value

    def _meters(self, where: str, table: dict[str, Any]) -> dict[str, int]:
        for key in _REQUIRED:
            if key not in table:
                self._note(f"{where}, {key}: is missing (USD per million tokens)")
        return {
            key: self._nano(f"{where}, {key}", table[key], _PER_MTOK)
            for key in METERS
            if key in table
        }

    def _nano(self, where: str, value: object, unit: str) -> int:
        """USD as written to nano-dollars; 0 with a note when it cannot be a price."""
        usd = _decimal(value)
        if usd is None:
            self._note(f"{where}: must be {unit}")
        elif not usd.is_finite() or not 0 <= usd <= USD_LIMIT:
            self._note(f"{where}: must be between 0 and {USD_LIMIT:,} USD")
        elif round(usd, _DECIMALS) != usd:
            self._note(f"{where}: has more than nine decimals")
        else:
            return int(usd * NANO_PER_MTOK_USD)
        return 0

    def _note(self, mistake: str) -> None:
        self.mistakes.append(f"{self._file}: {mistake}")


def _decimal(value: object) -> Decimal | None:
    """A price as written: a string, a whole number or a decimal (TOML's true and dates are not)."""
    if isinstance(value, bool) or not isinstance(value, str | int | Decimal):
        return None
    try:
        return Decimal(value)
    except InvalidOperation:
        return None
