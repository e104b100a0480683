"""A history to price again: confirmed lines with every meter and factor, and price files to do it with."""

import json
from pathlib import Path
from typing import Any

from app.budget.ledger import Attempt, Kind, Meters, reserve, settle
from app.domain.money import format_usd
from app.domain.task import Claim
from app.journal.call_events import ModelAnswered
from app.journal.journal import append
from app.llm.price_overrides import METERS
from app.llm.pricing import PriceRow, Rates
from app.llm.provider import ModelRequest
from app.store.port import Tx
from tests.support.clock import FakeClock
from tests.support.desk import Desk, call_of, prices
from tests.support.provider import HAIKU, answer, lost, text
from tests.support.seeding import USD, claimed, scopes_of

SONNET, OPUS, DATED = "claude-sonnet-5-5", "claude-opus-5-5", "claude-sonnet-4-5"
CONFIRMED_COUNT = 11
"""Lines of `history`: its reports, the refusal, the answer after one that was lost."""


def _reports(unit: int) -> list[tuple[str, str, dict[str, Any]]]:
    """Models asked, models that answered, and usage in multiples of `unit` tokens: each meter and each factor."""

    def used(**more: Any) -> dict[str, Any]:
        return {"input_tokens": 3 * unit, "output_tokens": 2 * unit, **more}

    split = {"ephemeral_5m_input_tokens": 5 * unit, "ephemeral_1h_input_tokens": 7 * unit}
    cached = used(
        cache_read_input_tokens=11 * unit,
        cache_creation_input_tokens=12 * unit,
        cache_creation=split,
    )
    passes = [
        {"type": "compaction", **used(input_tokens=9 * unit)},
        {"type": "advisor_message", "model": HAIKU, **used()},
        {"type": "message", **used()},
    ]
    return [
        (HAIKU, HAIKU, used()),
        (SONNET, SONNET, cached),
        (OPUS, OPUS, {**cached, "inference_geo": "us"}),
        (OPUS, OPUS, used(speed="fast")),
        (HAIKU, HAIKU, {**cached, "service_tier": "batch"}),
        (SONNET, SONNET, used(iterations=passes)),
        (SONNET, SONNET, used(server_tool_use={"web_search_requests": 3})),
        (HAIKU, HAIKU, used(input_tokens=200 * unit)),
        (DATED, f"{DATED}-20250929", used()),
    ]


async def ask(desk: Desk, claim: Claim, step: int, model: str) -> None:
    """Ask `model` on the task's account: whatever the script says is booked."""
    request = ModelRequest(
        model, max_tokens=9_000, messages=[{"role": "user", "content": "Say hello."}]
    )
    await desk.ask(call_of(claim, step=step, request=request, prompt_tokens=9_000))


async def history(desk: Desk, unit: int) -> None:
    """One line of each report, a refusal that is not billed, an estimated and a presumed one."""
    claim = await claimed(desk.store, budget_nano=900 * USD, session_nano=900 * USD)
    reports = _reports(unit)
    refused = answer(stop_reason="refusal", report={"input_tokens": unit, "output_tokens": 0})
    desk.provider.script = [
        *(answer(text("hello"), model=model, report=report) for _, model, report in reports),
        refused,
        answer(text("hello"), no_usage=True),
        lost(),
        answer(text("hello"), report={"input_tokens": 0, "output_tokens": 0}),
    ]
    asked = [model for model, _, _ in reports] + [HAIKU, SONNET, OPUS]
    for step, model in enumerate(asked, start=1):
        await ask(desk, claim, step, model)


def price_file(folder: Path, *rows: PriceRow, factor: int = 1) -> Path:
    """A price file with these rows, every price times `factor`."""

    def meters(rates: Rates) -> str:
        return "\n".join(
            f'{meter} = "{format_usd(getattr(rates, meter) * factor)}"' for meter in METERS
        )

    written = ""
    for row in rows:
        name = json.dumps(row.model)
        written += f"[models.{name}]\n{meters(row.rates)}\n"
        written += f'web_search = "{format_usd(row.web_search_nano * factor)}"\n'
        if row.fast is not None:
            written += f"[models.{name}.fast]\n{meters(row.fast)}\n"
        if row.long is not None:
            written += f"[models.{name}.long_context]\nabove_tokens = {row.long_above_tokens}\n"
            written += f"{meters(row.long)}\n"
    path = folder / f"prices-{factor}.toml"
    path.write_text(written, encoding="utf-8")
    return path


def price_rows() -> list[PriceRow]:
    """The rows by which `history` is booked."""
    names = (HAIKU, SONNET, OPUS, DATED, f"{DATED}-20250929")
    return [prices().row(name, FakeClock.today()) for name in names]


def _answered(step: int, model: str, cost_nano: int) -> ModelAnswered:
    return ModelAnswered(
        step=step,
        attempt=1,
        model=model,
        stop_reason="end_turn",
        move="finish",
        input_tokens=1_000,
        output_tokens=0,
        cache_read_tokens=0,
        cache_write_5m_tokens=0,
        cache_write_1h_tokens=0,
        web_searches=0,
        cost_nano=cost_nano,
        kind="confirmed",
        price_row="p",
        task_spent_nano=cost_nano,
        duration_s=1.0,
        request_id=None,
    )


async def book(desk: Desk, *lines: tuple[str, int]) -> None:
    """Confirmed lines of 1,000 tokens in, as a caller with another price file would have booked them."""
    claim = await claimed(desk.store)

    def op(tx: Tx) -> None:
        for step, (model, cost_nano) in enumerate(lines, start=1):
            attempt = Attempt(claim.subject, step, 1, model, "p")
            assert reserve(tx, attempt, scopes_of(claim.subject), 100_001) is None
            settle(tx, attempt.id, Kind.CONFIRMED, cost_nano, Meters(input_tokens=1_000))
            append(tx, claim.subject, _answered(step, model, cost_nano))

    await desk.store.write(op)
