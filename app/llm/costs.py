"""What an answer cost: one rule for every way of asking."""

from dataclasses import replace
from datetime import date

from app.llm.pricing import Cost, PriceBook, UnknownModel
from app.llm.provider import ModelAnswer
from app.llm.usage import Usage


def answer_cost(
    prices: PriceBook, answer: ModelAnswer, asked: str, day: date, *, compacts: bool
) -> Cost | None:
    """The answer's price on the day it was reserved; None when its usage or price is unknown.

    Where it names another model than was asked, it is not the word of the upstream that makes it cheaper.
    `compacts`: the conversation may have been summarized on the way.
    """
    if answer.stop_reason == "refusal" and not answer.content:
        return Cost(0, "unbilled:refused-before-output")
    usage = answer.usage
    if usage is None or (compacts and _lacks_a_pass(answer, usage)):
        return None
    try:
        cost = prices.cost(usage, day)
        if answer.model == asked or len(usage.parts) != 1:
            return cost
        as_asked = replace(usage, parts=((asked, usage.parts[0][1]),))
        return max(cost, prices.cost(as_asked, day), key=lambda c: c.nano)
    except UnknownModel:
        return None


def _lacks_a_pass(answer: ModelAnswer, usage: Usage) -> bool:
    """The conversation was summarized, and the report is silent about what that took."""
    summarized = any(block["type"] == "compaction" for block in answer.content)
    return summarized and len(usage.parts) == 1
