"""The simulator's own endpoints: bill, reset, requests."""

import pytest

from app.simulator.core import Simulator
from tests.unit.simulator.driving import Driver, HandClock, asking, read


def test_a_line_names_its_request(driver: Driver) -> None:
    """A line carries model, request id, key fingerprint, client reference, and becomes delivered."""
    reply = driver.plan(asking(), **{"X-Bursar-Attempt": "attempt_7"})
    assert reply.delivered is not None
    reply.delivered()
    reply.delivered()
    driver.plan(asking())
    first, second = driver.lines
    assert first["sequence"] == 1
    assert first["request_id"] == reply.headers["request-id"]
    assert (first["client_reference"], second["client_reference"]) == ("attempt_7", None)
    assert (first["status"], second["status"]) == ("delivered", "cut")
    assert first["key"] == second["key"]
    assert "not-a-key" not in str(first)


def test_totals_are_the_sum_of_the_lines(driver: Driver) -> None:
    """Totals, totals by model and lines agree, delivered or not."""
    for number, model in enumerate(("claude-haiku-5-5", "claude-opus-5-5", "claude-opus-5-5")):
        reply = driver.plan(asking(model=model))
        if number and reply.delivered:
            reply.delivered()
    bill = driver.control("GET", "bill")[1]
    amounts = [line["nano"] for line in bill["lines"]]
    total = bill["total"]
    assert (total["lines"], total["nano"], total["usd"]) == (3, sum(amounts), sum(amounts) / 1e9)
    assert (total["delivered_nano"], total["cut_nano"]) == (sum(amounts[1:]), amounts[0])
    assert bill["by_model"]["claude-opus-5-5"]["nano"] == sum(amounts[1:])
    assert "lines" not in driver.control("GET", "bill?lines=0")[1]


def test_reset_forgets_everything(driver: Driver) -> None:
    """After a reset the simulator is as new; a late delivery of an old answer changes nothing."""
    before = driver.plan(asking())
    driver.faults({"kind": "overloaded"})
    assert driver.control("POST", "reset") == (200, {"reset": True})
    assert before.delivered is not None
    before.delivered()
    bill = driver.control("GET", "bill")[1]
    assert (bill["total"]["lines"], bill["total"]["delivered_nano"], bill["lines"]) == (0, 0, [])
    assert driver.control("GET", "requests")[1] == {"requests": []}
    assert read(driver.plan(asking())) == read(before)


def test_requests_are_kept_without_credentials(driver: Driver) -> None:
    """The log tells what was sent, newest first, and no key."""
    driver.faults({"kind": "none"}, {"kind": "overloaded"})
    driver.plan(asking(stream=True), **{"x-api-key": "not-a-key", "X-Trace": "7"})
    driver.plan(asking())
    latest, first = driver.control("GET", "requests")[1]["requests"]
    assert (latest["status"], latest["fault"]) == (529, "overloaded")
    assert (first["stream"], first["messages"], first["status"]) == (True, 1, 200)
    assert first["headers"] == {"x-trace": "7"}
    assert first["at"] == "2026-09-21T14:13:20.000000Z"
    assert "not-a-key" not in str([latest, first])
    assert len(driver.control("GET", "requests?limit=1")[1]["requests"]) == 1
    newest = latest["number"]
    later = driver.control("GET", f"requests?after={newest - 1}")[1]["requests"]
    assert [request["number"] for request in later] == [newest]
    assert driver.control("GET", f"requests?after={newest}")[1]["requests"] == []


@pytest.mark.parametrize("limit", ["0", "1001", "x", "²"])
def test_bad_limits(driver: Driver, limit: str) -> None:
    """A limit that is none is a 422."""
    assert driver.control("GET", f"requests?limit={limit}")[0] == 422
    assert driver.control("GET", f"requests?after=-{limit}")[0] == 422


@pytest.mark.parametrize(
    ("method", "target"), [("GET", "nothing"), ("DELETE", "bill"), ("GET", "reset")]
)
def test_unknown_endpoints(driver: Driver, method: str, target: str) -> None:
    """What is not there is a 404."""
    assert driver.control(method, target)[0] == 404


def test_faults_that_are_not_json(driver: Driver) -> None:
    """Bytes that are no JSON are a 422."""
    assert driver.simulator.reply("PUT", "/simulator/faults", {}, b"{").status == 422


def test_everything_says_it_is_simulated(driver: Driver) -> None:
    """Every reply carries the header, errors and the simulator's own endpoints included."""
    driver.faults({"kind": "html_page"}, {"kind": "overloaded"})
    replies = [driver.plan(asking(stream=n == 2)) for n in range(3)]
    replies += [driver.plan({}), driver.simulator.reply("GET", "/simulator/bill", {}, b"")]
    replies += [driver.simulator.reply("GET", "/simulator/x", {}, b"")]
    assert {reply.headers["x-simulated"] for reply in replies} == {"bursar"}


def test_an_account_may_have_a_geography() -> None:
    """A default geography is charged without being asked for."""
    driver = Driver()
    driver.simulator = Simulator(HandClock(), default_geo="us")
    assert driver.ask()["usage"]["inference_geo"] == "us"
    (line,) = driver.lines
    usage = line["usage"]
    plain = usage["input_tokens"] * 100 + usage["output_tokens"] * 500
    assert line["nano"] == plain * 11 // 10
