"""/healthz, /readyz, /metrics, /docs."""

import asyncio
import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families as families

from app import __version__
from app.llm.provider import ModelFailure, WarmsUp
from tests.support.service import HANG, Running, started

NAMES = {
    "bursar_tasks",
    "bursar_tasks_accepted",
    "bursar_tasks_running",
    "bursar_task_duration_seconds",
    "bursar_step_duration_seconds",
    "bursar_queue_depth",
    "bursar_queue_oldest_age_seconds",
    "bursar_spend_usd",
    "bursar_reserved_usd",
    "bursar_presumed_spent_usd",
    "bursar_budget_rejections",
    "bursar_reservation_overage",
    "bursar_upstream_requests",
    "bursar_retries",
    "bursar_batch_items",
    "bursar_batch_items_returned",
    "bursar_breaker_state",
    "bursar_rate_limit",
    "bursar_rate_limit_remaining",
    "bursar_upstream_blocked_seconds",
    "bursar_upstream_concurrency_limit",
    "bursar_upstream_in_flight",
    "bursar_upstream_outages",
    "bursar_upstream_parked",
    "bursar_upstream_rate_limited",
    "bursar_upstream_waiting",
    "bursar_upstream_waits",
    "bursar_tasks_routed",
    "bursar_model_switches",
    "bursar_tool_calls",
    "bursar_leases_lost",
    "bursar_orphans_rescued",
    "bursar_tokens",
    "bursar_sse_clients",
    "bursar_build_info",
}
LABELS = {
    "state",
    "by",
    "complexity",
    "outcome",
    "kind",
    "model",
    "scope",
    "reason",
    "priority",
    "meter",
    "version",
    "le",
}
_ADDRESS = re.compile(r"""(?:https?:)?//[^\s"'<>)]+""")
_SOURCE = re.compile(r"""(?:src|href|spec-url|url)\s*[=:]\s*['"]([^'"]+)['"]""")

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


async def _metrics(bursar: Running) -> tuple[set[str], Samples]:
    answer = await bursar.client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = list(families(answer.text))
    samples: Samples = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in found
        for sample in family.samples
    }
    return {family.name for family in found if not family.name.endswith("_created")}, samples


async def test_healthz(bursar: Running) -> None:
    """Alive, which version, and whether answers are simulated."""
    answer = await bursar.client.get("/healthz")
    assert answer.json() == {"status": "ok", "version": __version__, "simulated": True}


async def test_readyz(bursar: Running) -> None:
    """Ready while the store can be written."""
    assert (await bursar.client.get("/readyz")).json() == {"status": "ready", "simulated": True}


async def test_readyz_without_a_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With certificates that are not there no model can be asked: alive, and not ready until that is mended."""
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/ca.pem")
    async with started(tmp_path) as bursar:
        provider = bursar.service.services.provider
        assert isinstance(provider, WarmsUp)
        with pytest.raises(ModelFailure):
            await provider.ready()
        answer = await bursar.client.get("/readyz")
        assert answer.status_code == 503
        assert answer.json()["type"] == "urn:bursar:problem:upstream-client-failed"
        assert "nowhere" not in answer.text
        assert (await bursar.client.get("/healthz")).status_code == 200
        monkeypatch.delenv("SSL_CERT_FILE")
        async with asyncio.timeout(20):
            while (await bursar.client.get("/readyz")).status_code != 200:
                await asyncio.wait({asyncio.ensure_future(provider.ready())})
        assert (await bursar.run())["outcome"] == "answered"


class TestMetrics:
    """/metrics, after a run that touches every counter the API can touch."""

    async def test_names_and_labels(self, bursar: Running) -> None:
        """The names are the published ones, and no label carries an id."""
        bursar.script({"kind": "overloaded"}, {"kind": "cut_before_headers"})
        for complexity in ("simple", "medium"):
            await bursar.run(
                '[[sim {"steps": 1}]] Work.',
                session_id="canary-session",
                complexity=complexity,
                tools=["text_stats"],
                metadata={"canary": "metadata"},
            )
        names, samples = await _metrics(bursar)
        assert names == NAMES
        labels = [label for _, labels in samples for label in labels]
        assert {name for name, _ in labels} <= LABELS
        for _, value in labels:
            assert not re.search(r"task_|sess_|req_|msg_|toolu_|canary", value), value

    async def test_counts(self, bursar: Running) -> None:
        """What happened is counted: ends, answers, failures, retries, tools, tokens, money."""
        bursar.script({"kind": "overloaded"}, {"kind": "cut_before_headers"})
        task = await bursar.run('[[sim {"steps": 1}]] Work.', tools=["text_stats"])
        await bursar.client.put("/sessions/s/budget", json={"budget_usd": 0})
        await bursar.client.post("/tasks", json={"task": "x", "session_id": "s"})
        _, samples = await _metrics(bursar)
        model = ("model", task["model"])
        expected: Samples = {
            ("bursar_tasks_accepted_total", ()): 1,
            ("bursar_tasks_total", (("outcome", "answered"), ("state", "succeeded"))): 1,
            ("bursar_task_duration_seconds_count", ()): 1,
            ("bursar_step_duration_seconds_count", (("kind", "model"),)): 2,
            ("bursar_step_duration_seconds_count", (("kind", "tool"),)): 1,
            ("bursar_upstream_requests_total", (model, ("outcome", "answered"))): 2,
            ("bursar_upstream_requests_total", (model, ("outcome", "overloaded_error"))): 1,
            ("bursar_upstream_requests_total", (model, ("outcome", "answer_lost"))): 1,
            ("bursar_retries_total", (("reason", "overloaded_error"),)): 1,
            ("bursar_tool_calls_total", (("outcome", "ok"),)): 1,
            ("bursar_budget_rejections_total", (("scope", "session"),)): 1,
            ("bursar_tokens_total", (("meter", "input"),)): task["tokens"]["input"],
            ("bursar_tokens_total", (("meter", "output"),)): task["tokens"]["output"],
            ("bursar_reservation_overage_total", ()): 0,
            ("bursar_reserved_usd", ()): 0,
            ("bursar_tasks_running", ()): 0,
            ("bursar_build_info", (("version", __version__),)): 1,
        }
        assert {key: samples.get(key) for key in expected} == expected
        assert samples["bursar_spend_usd_total", (model,)] == pytest.approx(task["cost_usd"])
        presumed = samples["bursar_presumed_spent_usd_total", ()]
        assert presumed == pytest.approx(task["cost"]["presumed_usd"]) != 0

    async def test_gauges(self, tmp_path: Path) -> None:
        """What waits, what runs and what is held right now."""
        async with started(tmp_path, workers=1) as bursar:
            bursar.script(HANG)
            running = await bursar.submit()
            await bursar.saw(running["id"], "attempt_started")
            for priority in (0, 5, 5):
                await bursar.submit(priority=priority)
            _, samples = await _metrics(bursar)
            held = (await bursar.client.get(running["links"]["self"])).json()["reserved_usd"]
            assert samples["bursar_queue_depth", (("priority", "0"),)] == 1
            assert samples["bursar_queue_depth", (("priority", "5"),)] == 2
            assert samples["bursar_queue_oldest_age_seconds", ()] > 0
            assert samples["bursar_tasks_running", ()] == 1
            assert samples["bursar_reserved_usd", ()] == held > 0


class TestDocs:
    """/docs and /redoc without internet."""

    @pytest.mark.parametrize("path", ["/docs", "/redoc"])
    async def test_no_other_host(self, bursar: Running, path: str) -> None:
        """The page names no other host, and everything it names is here."""
        page = (await bursar.client.get(path)).text
        assert _ADDRESS.findall(page) == []
        named = _SOURCE.findall(page)
        assert "/openapi.json" in named
        assert len(named) >= 3
        for source in named:
            answer = await bursar.client.get(source)
            assert answer.status_code == 200, source
            assert answer.content, source
