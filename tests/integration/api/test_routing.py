"""complexity: auto, through the API: the router's choice, its reasons, and what the others would have cost."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.support.clock import yielded
from tests.support.service import HANG, Running, started

PLAIN = "Say hello."
HARD = (
    "Refactor this service so that it retries, then write tests, and finally a migration plan:\n"
    "```python\ndef call(x):\n    return send(x)\n```"
)
TOOLS = ["calculator", "text_stats", "current_time"]
HAIKU, SONNET, OPUS = "claude-haiku-5-5", "claude-sonnet-5-5", "claude-opus-5-5"
ROUTES = {"simple": HAIKU, "medium": SONNET, "complex": OPUS}


async def routed(bursar: Running, task_id: str) -> list[dict[str, Any]]:
    """The router's events."""
    return [e["data"] for e in await bursar.events(task_id) if e["type"] == "model_routed"]


async def hanging(bursar: Running) -> None:
    """Wait until a request has met its fault."""
    async with asyncio.timeout(30):
        while not any(seen.fault for seen in bursar.simulator.log.seen):
            await yielded()


@pytest.mark.parametrize(
    ("task", "tools", "complexity"), [(PLAIN, [], "simple"), (HARD, TOOLS, "complex")]
)
async def test_auto_finds_the_complexity(
    bursar: Running, task: str, tools: list[str], complexity: str
) -> None:
    """The task goes where its score says; the task, its events and its calls agree on that."""
    made = await bursar.run(task, complexity="auto", tools=tools)
    model = ROUTES[complexity]
    assert (made["complexity"], made["model"], made["outcome"]) == (complexity, model, "answered")
    assert {seen.request["model"] for seen in bursar.simulator.log.seen} == {model}
    (told,) = await routed(bursar, made["id"])
    assert (told["by"], told["model"], told["complexity"]) == ("router", model, complexity)
    assert told["reason"] == made["model_reason"]
    assert told["score"] == made["routing"]["score"]
    assert made["model_reason"].startswith(f"auto: score {told['score']:.2f} ")
    strongest = made["routing"]["signals"][0]
    assert f"{strongest['name']} {strongest['effect']:+.2f}" in made["model_reason"]


async def test_what_the_others_would_have_cost(bursar: Running) -> None:
    """Each route with its likely cost and its worst case: in the task, in the event, and in the quote."""
    body = {"task": PLAIN, "complexity": "auto", "budget_usd": 900, "escalate": False}
    quote = (await bursar.client.post("/quotes", json=body)).json()
    made = await bursar.submit(PLAIN, complexity="auto", budget_usd=900)
    assert quote["routing"] == made["routing"]
    assert (quote["complexity"], quote["model"]) == (made["complexity"], made["model"])
    others = made["routing"]["alternatives"]
    assert {other["complexity"]: other["model"] for other in others} == ROUTES
    likely = [other["likely_usd"] for other in others]
    worst = [other["worst_case_usd"] for other in others]
    assert likely == sorted(likely)
    assert worst == sorted(worst)
    assert all(0 < a < b for a, b in zip(likely, worst, strict=True))
    assert worst[0] == quote["worst_case_usd"]
    (told,) = await routed(bursar, made["id"])
    assert told["complex_likely_usd"] == likely[2]
    assert told["medium_worst_usd"] == worst[1]


async def test_nobody_is_routed_unasked(bursar: Running) -> None:
    """Without `auto` the default stays the default, and nothing is told of a router."""
    made = await bursar.submit(HARD)
    assert (made["complexity"], made["model_reason"], made["routing"]) == (
        "medium",
        "complexity:medium",
        None,
    )
    assert await routed(bursar, made["id"]) == []


async def test_a_named_model_wins(bursar: Running) -> None:
    """Whatever the complexity says, the router is not asked."""
    made = await bursar.submit(HARD, complexity="auto", model=HAIKU)
    assert (made["model"], made["model_reason"]) == (HAIKU, "requested")
    assert made["routing"] is None
    assert await routed(bursar, made["id"]) == []


async def test_auto_as_the_default(tmp_path: Path) -> None:
    """A setting makes it so for tasks that name neither; thresholds are settings, too."""
    async with started(tmp_path, default_complexity="auto", auto_complex_score=0.0) as bursar:
        assert (await bursar.submit(PLAIN))["model"] == OPUS
        assert (await bursar.submit(PLAIN, complexity="simple"))["model"] == HAIKU
        assert (await bursar.submit(PLAIN, model=HAIKU))["model_reason"] == "requested"


async def test_the_choice_outlives_a_restart(tmp_path: Path) -> None:
    """It is kept with the task: other thresholds, and other routes, change nothing of one that has begun."""
    async with started(tmp_path) as bursar:
        bursar.script(HANG)
        before = await bursar.submit(PLAIN, complexity="auto")
        await bursar.saw(before["id"], "attempt_started")
    async with started(tmp_path, auto_medium_score=0.0, route_simple=SONNET) as bursar:
        after = await bursar.finished(before["id"])
        shown = ("complexity", "model", "model_reason", "routing")
        assert {name: after[name] for name in shown} == {name: before[name] for name in shown}
        assert {seen.request["model"] for seen in bursar.simulator.log.seen} == {HAIKU}
        assert len(await routed(bursar, before["id"])) == 1


async def test_the_journal_never_quotes_the_task(bursar: Running) -> None:
    """Reasons are the router's own words: what a task says stays out of events and log lines."""
    words = {"hunter2", "defendant", "patient"}
    made = await bursar.submit("Is the defendant a patient of hunter2? " + HARD, complexity="auto")
    (told,) = await routed(bursar, made["id"])
    assert not words & set(" ".join([told["reason"], *told["signals"]]).split())


async def test_an_unknown_complexity_is_refused(bursar: Running) -> None:
    """The four words, and no other."""
    answer = await bursar.client.post("/tasks", json={"task": "x", "complexity": "automatic"})
    assert answer.status_code == 422


class TestEscalation:
    """The next dearer route goes on; the simulator's bill is the judge."""

    async def test_a_refusal_is_taken_up_the_ladder(self, bursar: Running) -> None:
        """Each route is asked in turn and each step told; the bill, the ledger and the quote agree."""
        task = PLAIN + ' [[sim {"stop": "refusal_mid"}]]'
        body = {"task": task, "complexity": "auto", "budget_usd": 900}
        quote = (await bursar.client.post("/quotes", json=body)).json()
        made = await bursar.run(task, complexity="auto", budget_usd=900)
        assert (made["outcome"], made["model"], made["escalate"]) == ("refused", HAIKU, True)
        asked = [seen.request["model"] for seen in bursar.simulator.log.seen]
        assert asked == [HAIKU, SONNET, OPUS]
        told = [e for e in await bursar.events(made["id"]) if e["type"] == "model_escalated"]
        assert [(e["data"]["to_model"], e["data"]["number"]) for e in told] == [
            (SONNET, 1),
            (OPUS, 2),
        ]
        assert bursar.simulator.bill.total.nano == round(made["cost_usd"] * 1e9)
        assert 0 < made["cost_usd"] < quote["worst_case_usd"]
        assert quote["worst_case_usd"] == quote["routing"]["alternatives"][-1]["worst_case_usd"]

    async def test_truncation_with_a_tight_budget(self, bursar: Running) -> None:
        """Where the budget does not pay for the next route, the cut text is kept, and the budget holds."""
        task = 'Go on. [[sim {"answer_tokens": 9000}]]'
        made = await bursar.run(task, complexity="simple", escalate=True, budget_usd=0.004)
        assert (made["outcome"], made["partial"]) == ("truncated", True)
        assert {seen.request["model"] for seen in bursar.simulator.log.seen} == {HAIKU}
        assert bursar.simulator.bill.total.nano <= 4_000_000

    @pytest.mark.parametrize(
        ("fields", "escalate"),
        [
            ({}, False),
            ({"complexity": "auto"}, True),
            ({"complexity": "auto", "escalate": False}, False),
            ({"complexity": "auto", "model": HAIKU}, False),
            ({"complexity": "complex", "escalate": True}, True),
        ],
    )
    async def test_who_may_go_up(
        self, bursar: Running, fields: dict[str, Any], *, escalate: bool
    ) -> None:
        """Where the router chose, unless the task says otherwise; elsewhere when the task asks for it."""
        assert (await bursar.submit(PLAIN, **fields))["escalate"] is escalate

    async def test_a_named_model_is_not_replaced(self, bursar: Running) -> None:
        """Both wishes at once are refused, by a quote too."""
        body = {"task": "x", "model": HAIKU, "escalate": True}
        for path in ("/tasks", "/quotes"):
            answer = await bursar.client.post(path, json=body)
            assert answer.status_code == 422
            assert answer.json()["errors"][0]["field"] == "escalate"

    async def test_a_restart_goes_on_with_the_dearer_model(self, tmp_path: Path) -> None:
        """Killed in mid question after a step up: the next process asks that model, and no other."""
        task = PLAIN + ' [[sim {"stop": "refusal"}]]'
        async with started(tmp_path, escalation_limit=1) as bursar:
            bursar.script({**HANG, "model": SONNET})
            made = await bursar.submit(task, complexity="auto")
            await bursar.saw(made["id"], "model_escalated")
        async with started(tmp_path, escalation_limit=1) as bursar:
            ended = await bursar.finished(made["id"])
            assert ended["outcome"] == "refused"
            assert [seen.request["model"] for seen in bursar.simulator.log.seen] == [SONNET]

    async def test_a_retry_goes_on_with_the_dearer_model(self, tmp_path: Path) -> None:
        """A task that failed at the limit of its steps up may go up again, from where it stands."""
        task = PLAIN + ' [[sim {"stop": "refusal_mid"}]]'
        async with started(tmp_path, escalation_limit=1) as bursar:
            made = await bursar.run(task, complexity="auto")
            answer = await bursar.client.post(f"/tasks/{made['id']}/retry")
            assert answer.status_code == 202, answer.text
            ended = await bursar.finished(made["id"])
            assert ended["outcome"] == "refused"
            asked = [seen.request["model"] for seen in bursar.simulator.log.seen]
            assert asked == [HAIKU, SONNET, SONNET, OPUS]


class TestClassifier:
    """A second opinion, when the service is set to ask for one."""

    async def test_it_is_asked_of_the_cheapest_and_charged_to_the_task(
        self, tmp_path: Path
    ) -> None:
        """Two calls, two lines in the ledger, one bill; the quote covers both."""
        task = PLAIN + ' [[sim {"answer": "complex"}]]'
        async with started(tmp_path, auto_classifier=True) as bursar:
            body = {"task": task, "complexity": "auto", "budget_usd": 900, "escalate": False}
            quote = (await bursar.client.post("/quotes", json=body)).json()
            made = await bursar.run(task, complexity="auto", budget_usd=900, escalate=False)
            assert (made["outcome"], made["steps"], made["calls"]) == ("answered", 2, 2)
            asked = [seen.request["model"] for seen in bursar.simulator.log.seen]
            assert asked == [HAIKU, OPUS]
            first, second = await routed(bursar, made["id"])
            assert (first["by"], first["model"]) == ("router", HAIKU)
            assert (second["by"], second["model"]) == ("classifier", OPUS)
            assert bursar.simulator.bill.total.nano == round(made["cost_usd"] * 1e9)
            assert made["cost_usd"] < quote["worst_case_usd"]
            assert quote["worst_case_usd"] > quote["routing"]["alternatives"][-1]["worst_case_usd"]

    async def test_a_small_budget_does_not_make_a_dear_route_cheap(self, tmp_path: Path) -> None:
        """Less than any route will likely cost: it is asked of the cheapest all the same, and told what it can spend."""
        routes: dict[str, Any] = {
            "route_simple": SONNET,
            "route_medium": SONNET,
            "route_complex": OPUS,
        }
        task = PLAIN + ' [[sim {"answer": "simple"}]]'
        async with started(tmp_path, auto_classifier=True, **routes) as bursar:
            body = {"task": task, "complexity": "auto", "tools": ["calculator"]}
            quote = (await bursar.client.post("/quotes", json=body)).json()
            budget_usd = quote["routing"]["alternatives"][0]["likely_usd"] * 0.9
            made = await bursar.run(
                task, complexity="auto", tools=["calculator"], budget_usd=budget_usd
            )
            likely = [other["likely_usd"] for other in made["routing"]["alternatives"]]
            assert likely == [made["budget_usd"]] * 3
            assert [seen.request["model"] for seen in bursar.simulator.log.seen] == [SONNET, SONNET]

    async def test_a_crash_in_mid_question(self, tmp_path: Path) -> None:
        """The next process does not ask again: the lost call is presumed spent, the router's word stands."""
        async with started(tmp_path, auto_classifier=True) as bursar:
            bursar.script(HANG)
            made = await bursar.submit(PLAIN, complexity="auto")
            await hanging(bursar)
        async with started(tmp_path, auto_classifier=True) as bursar:
            ended = await bursar.finished(made["id"])
            assert (ended["outcome"], ended["steps"]) == ("answered", 1)
            assert ended["cost"]["presumed_usd"] > 0
            assert [told["by"] for told in await routed(bursar, made["id"])] == [
                "router",
                "fallback",
            ]
            assert len(bursar.simulator.log.seen) == 1

    @pytest.mark.parametrize(
        "fields",
        [
            {},
            {"complexity": "complex"},
            {"complexity": "auto", "model": HAIKU},
            {"complexity": "auto", "on_budget": "finalize"},
        ],
    )
    async def test_it_is_not_asked_otherwise(self, tmp_path: Path, fields: dict[str, Any]) -> None:
        """Only where the router chose, and not where a closing turn's price is held back."""
        async with started(tmp_path, auto_classifier=True) as bursar:
            assert (await bursar.run(PLAIN, **fields))["steps"] == 1
