"""The simulator's own bill: one line for each billed generation, delivered or not. The oracle of tests."""

from collections import deque
from dataclasses import dataclass, field

from app.domain.money import usd_from_nano
from app.simulator.errors import JsonObject
from app.simulator.prices import Meters

LINE_LIMIT = 200_000
"""Lines kept; the totals cover all."""


@dataclass(slots=True)
class Line:
    """One billed generation. `nano` is nano-dollars; `delivered` turns true once all of it was sent."""

    sequence: int
    model: str
    request_id: str
    key: str
    client_reference: str | None
    meters: Meters
    nano: int
    delivered: bool = False

    def as_json(self) -> JsonObject:
        return {
            "sequence": self.sequence,
            "model": self.model,
            "request_id": self.request_id,
            "key": self.key,
            "client_reference": self.client_reference,
            "usage": usage_json(self.meters),
            "nano": self.nano,
            "usd": usd_from_nano(self.nano),
            "status": "delivered" if self.delivered else "cut",
            "delivered": self.delivered,
        }


@dataclass(slots=True)
class _Total:
    lines: int = 0
    nano: int = 0
    delivered_lines: int = 0
    delivered_nano: int = 0

    def as_json(self) -> JsonObject:
        cut = self.nano - self.delivered_nano
        return {
            "lines": self.lines,
            "nano": self.nano,
            "usd": usd_from_nano(self.nano),
            "delivered_lines": self.delivered_lines,
            "delivered_nano": self.delivered_nano,
            "delivered_usd": usd_from_nano(self.delivered_nano),
            "cut_lines": self.lines - self.delivered_lines,
            "cut_nano": cut,
            "cut_usd": usd_from_nano(cut),
        }


@dataclass(slots=True)
class Bill:
    """All lines since the last reset."""

    lines: deque[Line] = field(default_factory=lambda: deque(maxlen=LINE_LIMIT))
    total: _Total = field(default_factory=_Total)
    by_model: dict[str, _Total] = field(default_factory=dict)

    def add(
        self,
        model: str,
        meters: Meters,
        nano: int,
        *,
        request_id: str,
        key: str,
        client_reference: str | None,
    ) -> Line:
        """Bill one generation; it counts as cut until `deliver` is called."""
        sequence = self.total.lines + 1
        line = Line(sequence, model, request_id, key, client_reference, meters, nano)
        self.lines.append(line)
        for total in (self.total, self.by_model.setdefault(model, _Total())):
            total.lines += 1
            total.nano += nano
        return line

    def deliver(self, line: Line) -> None:
        """Note that the whole answer of `line` was handed to the network; once counts."""
        if line.delivered:
            return
        line.delivered = True
        for total in (self.total, self.by_model[line.model]):
            total.delivered_lines += 1
            total.delivered_nano += line.nano

    def as_json(self, *, with_lines: bool) -> JsonObject:
        """Totals, totals by model, and the lines if wanted. Amounts as `nano` and as `usd`."""
        shown: JsonObject = {
            "simulated": True,
            "total": self.total.as_json(),
            "by_model": {model: total.as_json() for model, total in self.by_model.items()},
        }
        if with_lines:
            shown["lines_kept"] = len(self.lines)
            shown["lines"] = [line.as_json() for line in self.lines]
        return shown


def usage_json(meters: Meters) -> JsonObject:
    """Meters as the bill and the answers' usage name them."""
    return {
        "input_tokens": meters.input,
        "cache_creation_input_tokens": meters.cache_write_5m + meters.cache_write_1h,
        "cache_read_input_tokens": meters.cache_read,
        "cache_creation": {
            "ephemeral_5m_input_tokens": meters.cache_write_5m,
            "ephemeral_1h_input_tokens": meters.cache_write_1h,
        },
        "output_tokens": meters.output,
        "output_tokens_details": {"thinking_tokens": meters.thinking},
    }
