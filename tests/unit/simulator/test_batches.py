"""Message Batches: made at once, answered and billed when they are processed, in no order, at half price."""

from typing import Any

import orjson
import pytest

from app.simulator.prices import Meters, charge_nano
from app.simulator.reply import Ending, Reply
from tests.unit.simulator.driving import KEY, MODEL, Driver, asking, read

PATH = "/v1/messages/batches"
DAY_S = 24 * 3_600


def call(driver: Driver, method: str, target: str = "", body: object = None) -> Reply:
    """One request under the batches' path."""
    sent = b"" if body is None else orjson.dumps(body)
    return driver.simulator.reply(method, PATH + target, KEY, sent)


def item(custom_id: str, messages: Any = "Hello there", **fields: Any) -> dict[str, Any]:
    """A request of a batch."""
    return {"custom_id": custom_id, "params": asking(messages, **fields)}


def create(driver: Driver, *items: dict[str, Any]) -> dict[str, Any]:
    """A batch of these items."""
    return read(call(driver, "POST", body={"requests": list(items)}))


def results(driver: Driver, batch_id: str) -> dict[str, dict[str, Any]]:
    """The results by custom id, in the order they came."""
    reply = call(driver, "GET", f"/{batch_id}/results")
    assert reply.status == 200, reply
    if reply.delivered is not None:
        reply.delivered()
    lines = [orjson.loads(line) for line in b"".join(reply.pieces).splitlines()]
    return {line["custom_id"]: line["result"] for line in lines}


def hold(driver: Driver, **more: object) -> None:
    """From now on batches are processed on command only."""
    status, answer = driver.control("PUT", "batches", {"delay_s": None, **more})
    assert status == 200, answer


class TestProcessing:
    """From making to the results."""

    def test_nothing_happens_before(self, driver: Driver) -> None:
        """A batch that was made is in progress: nothing is billed, there are no results."""
        hold(driver)
        batch = create(driver, item("a"), item("b"))
        assert batch["processing_status"] == "in_progress"
        assert batch["request_counts"]["processing"] == 2
        assert batch["results_url"] is None
        assert driver.lines == []
        assert call(driver, "GET", f"/{batch['id']}/results").status == 400

    def test_results_come_in_no_order(self, driver: Driver) -> None:
        """All of them, by custom id, with the tier that was used."""
        batch = create(driver, item("a", "One"), item("b", "Two"), item("c", "Three"))
        ended = read(call(driver, "GET", f"/{batch['id']}"))
        assert (ended["processing_status"], ended["request_counts"]["succeeded"]) == ("ended", 3)
        found = results(driver, batch["id"])
        assert list(found) == ["c", "b", "a"]
        assert {result["type"] for result in found.values()} == {"succeeded"}
        assert found["a"]["message"]["usage"]["service_tier"] == "batch"

    def test_half_the_price(self, driver: Driver) -> None:
        """Each line is half of what the same answer costs by itself, rounded up; `custom_id` is on the bill."""
        driver.ask("How are you?")
        batch = create(driver, item("a-1", "How are you?"))
        results(driver, batch["id"])
        alone, batched = driver.lines
        assert batched["client_reference"] == "a-1"
        assert batched["usage"] == alone["usage"]
        assert batched["nano"] == -(-alone["nano"] // 2)
        assert batched["delivered"] is True

    def test_rounded_up_once(self) -> None:
        """Half of an odd number of nano-dollars is the next whole one."""
        odd = Meters(input=0, output=3)
        full = charge_nano(MODEL, odd, fast=False, us_only=True)
        half = charge_nano(MODEL, odd, fast=False, us_only=True, batch=True)
        assert (full, half) == (1_650, 825)
        one = Meters(input=1)
        assert charge_nano(MODEL, one, fast=False, us_only=True, batch=True) == 55
        read_one = Meters(cache_read=1)  # 10 nano; 11 with geography; half is 5.5
        assert charge_nano(MODEL, read_one, fast=False, us_only=True, batch=True) == 6

    def test_items_are_checked_when_they_are_processed(self, driver: Driver) -> None:
        """A bad item is accepted with the batch, errors alone, and costs nothing."""
        hold(driver)
        bad = item("bad", temperature=1)
        batch = create(driver, bad, item("stream", stream=True), item("good"))
        assert batch["request_counts"]["processing"] == 3
        driver.control("POST", "batches/process")
        found = results(driver, batch["id"])
        assert found["good"]["type"] == "succeeded"
        for name in ("bad", "stream"):
            assert found[name]["type"] == "errored"
            assert found[name]["error"]["type"] == "error"
            assert found[name]["error"]["error"]["type"] == "invalid_request_error"
        assert [line["client_reference"] for line in driver.lines] == ["good"]

    def test_faults_strike_items(self, driver: Driver) -> None:
        """An overload is an errored item; what lies in an answer lies in an item's, too."""
        driver.faults({"kind": "overloaded"}, {"kind": "usage_missing"})
        batch = create(driver, item("a"), item("b"))
        found = results(driver, batch["id"])
        assert found["a"]["error"]["error"]["type"] == "overloaded_error"
        assert "usage" not in found["b"]["message"]

    def test_time_decides(self, driver: Driver) -> None:
        """`delay_s` after it was made a batch is processed, not before."""
        driver.control("PUT", "batches", {"delay_s": 60})
        batch = create(driver, item("a"))
        driver.clock.advance(59)
        assert read(call(driver, "GET", f"/{batch['id']}"))["processing_status"] == "in_progress"
        driver.clock.advance(1)
        assert read(call(driver, "GET", f"/{batch['id']}"))["processing_status"] == "ended"

    def test_expiry(self, driver: Driver) -> None:
        """What is not processed after a day has expired, unbilled; what was keeps its result."""
        hold(driver)
        batch = create(driver, item("a"), item("b"))
        driver.control("POST", "batches/process", {"id": batch["id"], "count": 1})
        driver.clock.advance(DAY_S)
        found = results(driver, batch["id"])
        assert (found["a"]["type"], found["b"]["type"]) == ("succeeded", "expired")
        assert len(driver.lines) == 1

    def test_cancel(self, driver: Driver) -> None:
        """A batch is cancelled whole: what was not processed is canceled and unbilled."""
        hold(driver)
        batch = create(driver, item("a"), item("b"))
        driver.control("POST", "batches/process", {"count": 1})
        canceling = read(call(driver, "POST", f"/{batch['id']}/cancel"))
        assert canceling["processing_status"] == "canceling"
        found = results(driver, batch["id"])
        assert (found["a"]["type"], found["b"]["type"]) == ("succeeded", "canceled")
        assert len(driver.lines) == 1
        assert call(driver, "POST", f"/{batch['id']}/cancel").status == 400


class TestListing:
    """GET /v1/messages/batches."""

    def test_pages(self, driver: Driver) -> None:
        """Newest first, page by page."""
        made = [create(driver, item("a"))["id"] for _ in range(5)]
        seen: list[str] = []
        query = "?limit=2"
        while True:
            page = read(call(driver, "GET", query))
            seen += [batch["id"] for batch in page["data"]]
            if not page["has_more"]:
                break
            query = f"?limit=2&after_id={page['last_id']}"
        assert seen == made[::-1]

    def test_of_the_key_alone(self, driver: Driver) -> None:
        """Another key neither lists nor finds it."""
        batch = create(driver, item("a"))
        other = {"Authorization": "Bearer another"}
        listed = driver.simulator.reply("GET", PATH, other, b"")
        assert read(listed)["data"] == []
        found = driver.simulator.reply("GET", f"{PATH}/{batch['id']}", other, b"")
        assert found.status == 404


REFUSED: dict[str, object] = {
    "no requests": {},
    "empty": {"requests": []},
    "no custom id": {"requests": [{"params": asking()}]},
    "a long custom id": {"requests": [item("a" * 65)]},
    "a slash": {"requests": [item("a/1/1")]},
    "the same twice": {"requests": [item("a"), item("a")]},
    "no params": {"requests": [{"custom_id": "a"}]},
}


@pytest.mark.parametrize("body", REFUSED.values(), ids=list(REFUSED))
def test_refused_as_a_whole(driver: Driver, body: object) -> None:
    """What is wrong with the batch itself is a 400 at once."""
    assert call(driver, "POST", body=body).status == 400
    assert driver.simulator.batches.all == {}


@pytest.mark.parametrize(
    ("how", "status", "made"), [("lost", 200, 1), ("busy", 429, 0), ("failed", 500, 0)]
)
def test_how_making_can_fail(driver: Driver, how: str, status: int, made: int) -> None:
    """A batch whose answer is lost exists; one that was refused does not."""
    hold(driver, creates=[how])
    reply = call(driver, "POST", body={"requests": [item("a")]})
    assert (reply.status, len(driver.simulator.batches.all)) == (status, made)
    assert (reply.ending is Ending.SILENT) is (how == "lost")
    assert call(driver, "POST", body={"requests": [item("a")]}).status == 200


def test_needs_a_key(driver: Driver) -> None:
    """As every endpoint."""
    assert driver.simulator.reply("GET", PATH, {}, b"").status == 401


@pytest.mark.parametrize(
    ("method", "target", "body", "status"),
    [
        ("PUT", "batches", {"delay_s": "soon"}, 422),
        ("PUT", "batches", {"creates": ["never"]}, 422),
        ("PUT", "batches", {"else": 1}, 422),
        ("POST", "batches/process", {"count": -1}, 422),
        ("POST", "batches/process", {"id": "msgbatch_none"}, 404),
        ("DELETE", "batches", None, 404),
        ("GET", "batches", None, 200),
    ],
)
def test_control_is_checked(
    driver: Driver, method: str, target: str, body: object, status: int
) -> None:
    """The endpoints for tests refuse what they cannot do."""
    assert driver.control(method, target, body)[0] == status
