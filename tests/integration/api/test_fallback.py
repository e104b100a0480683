"""A chain of models, as a client meets it: who has one, what it sees of it, and what it costs."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.service import Running, started

HAIKU, SONNET, OPUS = "claude-haiku-5-5", "claude-sonnet-5-5", "claude-opus-5-5"
CHAIN = (SONNET, HAIKU)


@pytest.mark.parametrize(
    ("asked", "chain"),
    [
        ({"complexity": "complex"}, [SONNET, HAIKU]),
        ({"complexity": "medium"}, [HAIKU]),
        ({"complexity": "simple"}, []),
        ({"complexity": "medium", "fallback": False}, []),
        ({"model": SONNET}, []),
        ({"model": SONNET, "fallback": True}, [HAIKU]),
        ({"model": OPUS, "fallback": True}, [SONNET, HAIKU]),
    ],
)
async def test_who_goes_on_for_whom(
    tmp_path: Path, asked: dict[str, Any], chain: list[str]
) -> None:
    """Those that follow the model; nobody where the client said so, or named its model and nothing else."""
    async with started(tmp_path, fallback_models=CHAIN) as bursar:
        assert (await bursar.submit(**asked))["fallback_models"] == chain


async def test_nobody_to_go_on(tmp_path: Path) -> None:
    """To ask for it in vain is an error."""
    async with started(tmp_path) as bursar:
        assert (await bursar.submit())["fallback_models"] == []
        refused = await bursar.client.post("/tasks", json={"task": "Hi.", "fallback": True})
        assert refused.status_code == 422
        assert "chain" in refused.text


async def test_a_quote_counts_everybody_who_may_answer(tmp_path: Path) -> None:
    """The worst case of a task that may end with a dearer model is that model's."""
    async with started(tmp_path, fallback_models=(OPUS,)) as bursar:
        worst = []
        for fallback in (False, True):
            body = {"task": "Hi.", "complexity": "simple", "fallback": fallback, "max_steps": 1}
            quote = (await bursar.client.post("/quotes", json=body)).json()
            worst.append(quote["uncapped_worst_case_usd"])
        assert worst[1] > 10 * worst[0]


async def overloaded_sonnet(bursar: Running, **fields: object) -> dict[str, Any]:
    """A medium task while Sonnet has no room for anybody."""
    bursar.script({"kind": "overloaded", "model": SONNET, "repeat": 1_000})
    return await bursar.run("What is 2+2?", complexity="medium", tools=["calculator"], **fields)


async def test_the_task_is_answered_by_the_next_model(tmp_path: Path) -> None:
    """The journal says so, the ledger's lines are the other model's, and the books agree with the bill."""
    async with started(tmp_path, fallback_models=CHAIN, retry_attempts=2) as bursar:
        task = await overloaded_sonnet(bursar)
        assert task["outcome"] == "answered"
        (told,) = [e for e in await bursar.events(task["id"]) if e["type"] == "model_fell_back"]
        assert told["data"]["why"] == "overloaded_error"
        assert (told["data"]["from_model"], told["data"]["to_model"]) == (SONNET, HAIKU)
        lines = bursar.rows(
            "SELECT model, amount_nano FROM ledger_lines WHERE entry = 'settlement'"
        )
        assert {line["model"] for line in lines} == {HAIKU}
        assert sum(line["amount_nano"] for line in lines) == bursar.simulator.bill.total.nano
        assert bursar.simulator.faults.used == [2], "Sonnet was asked twice, and no more"


async def test_in_an_outage_newcomers_do_not_ask_the_model_that_is_down(tmp_path: Path) -> None:
    """Once it is known, tasks fall back without an attempt: thirty of them, and Sonnet hears of few."""
    async with started(
        tmp_path, fallback_models=CHAIN, fallback_after_s=0.001, retry_attempts=1, workers=2
    ) as bursar:
        bursar.script({"kind": "overloaded", "model": SONNET, "repeat": 1_000})
        made = [await bursar.submit(complexity="medium", session_id="s") for _ in range(30)]
        outcomes = {(await bursar.finished(task["id"]))["outcome"] for task in made}
        assert outcomes == {"answered"}
        assert bursar.simulator.faults.used[0] <= 15
