"""The operator's price file: TOML, USD per million tokens, one table a model.

[models."my-model"]
input = "1.00"
output = "5.00"
cache_read = "0.10"          # these three may be left out: see `pricing`
cache_write_5m = "1.25"
cache_write_1h = "2.00"
long_context = { above_tokens = 100000, input = "2.00", output = "10.00" }
"""

import tomllib
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

METERS = ("input", "output", "cache_read", "cache_write_5m", "cache_write_1h")
NANO_PER_MTOK_USD = 1_000_000_000
USD_PER_MTOK_LIMIT = 1_000_000
_REQUIRED = ("input", "output")


@dataclass(frozen=True, slots=True)
class FilePrice:
    """One model's prices as written: nano-dollars per million tokens by meter, absent ones absent."""

    meters: dict[str, int]
    long_meters: dict[str, int] | None = None
    long_above_tokens: int | None = None


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
    except tomllib.TOMLDecodeError as error:
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
        long_context = table.get("long_context")
        meters = self._meters(where, table, extra="long_context")
        if long_context is None:
            return FilePrice(meters)
        where = f"{where}, long_context"
        if not isinstance(long_context, dict):
            self._note(f"{where}: must be a table with above_tokens, input and output")
            return None
        above_tokens = self._above_tokens(where, long_context)
        long_meters = self._meters(where, long_context, extra="above_tokens")
        return FilePrice(meters, long_meters, above_tokens)

    def _above_tokens(self, where: str, table: dict[str, Any]) -> int:
        value = table.get("above_tokens")
        if type(value) is not int or value < 1:
            self._note(f"{where}, above_tokens: must be a whole number of tokens, at least 1")
            return 1
        return value

    def _meters(self, where: str, table: dict[str, Any], *, extra: str) -> dict[str, int]:
        for key in sorted(table.keys() - {*METERS, extra}):
            self._note(f"{where}, {key}: is not known; known are {', '.join(METERS)}, {extra}")
        for key in _REQUIRED:
            if key not in table:
                self._note(f"{where}, {key}: is missing (USD per million tokens)")
        return {key: self._price(where, key, table[key]) for key in METERS if key in table}

    def _price(self, where: str, key: str, value: object) -> int:
        usd = _decimal(value)
        if usd is None:
            self._note(f'{where}, {key}: must be USD per million tokens, such as "1.25"')
        elif not usd.is_finite() or not 0 <= usd <= USD_PER_MTOK_LIMIT:
            self._note(f"{where}, {key}: must be between 0 and {USD_PER_MTOK_LIMIT:,} USD")
        elif (usd * NANO_PER_MTOK_USD) % 1:
            self._note(f"{where}, {key}: has more than nine decimals")
        else:
            return int(usd * NANO_PER_MTOK_USD)
        return 0

    def _note(self, mistake: str) -> None:
        self.mistakes.append(f"{self._file}: {mistake}")


def _decimal(value: object) -> Decimal | None:
    """A price as written: a string, a whole number or a decimal (TOML's true and dates are not)."""
    if type(value) not in (str, int, Decimal):
        return None
    try:
        return Decimal(str(value))
    except InvalidOperation:
        return None
