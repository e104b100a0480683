"""The simulator: a request comes in, a reply plan comes out. No sockets, no clock but the one it is given."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial, reduce
from hashlib import blake2b
from typing import Any

import orjson

from app.domain.clock import US_PER_S, Clock
from app.domain.record import record
from app.simulator import compaction
from app.simulator.batches import PATH as BATCHES_PATH
from app.simulator.batches import Batches, Result
from app.simulator.bill import Bill, Line
from app.simulator.caching import CachePlan, PromptCache
from app.simulator.compose import draft
from app.simulator.control import control
from app.simulator.directive import Directive
from app.simulator.errors import ApiError, JsonObject, invalid, require
from app.simulator.faults import TOOL_KINDS, Asked, Fault, FaultBook, Kind, Rule
from app.simulator.fit import Answer, fit
from app.simulator.limits import Limits, Pool, RateLimits
from app.simulator.log import RequestLog, Seen, key_of, safe_headers, summary
from app.simulator.models import Fast, Model
from app.simulator.odd_calls import with_odd_calls
from app.simulator.prices import Meters, charge_nano, total
from app.simulator.prompt import prompt_tokens
from app.simulator.reply import SIMULATED, Reply, error_reply, html_reply, json_reply, shaped
from app.simulator.thinking import check_thinking, prefix_digests, thinking_block
from app.simulator.validate import check_request
from app.simulator.view import View, look
from app.simulator.wire import Envelope, message_json, stream_events, usage_of

MAX_BODY_BYTES = 32 * 1024 * 1024
CLIENT_REFERENCE = "x-bursar-attempt"
_ERRORS: dict[Kind, tuple[int, str, str, str | None]] = {
    Kind.RATE_LIMIT: (429, "rate_limit_error", "This request would exceed a rate limit.", None),
    Kind.OVERLOADED: (529, "overloaded_error", "Overloaded", None),
    Kind.SERVER_ERROR: (500, "api_error", "Internal server error", None),
    Kind.SPEND_CAP: (
        429,
        "rate_limit_error",
        "You have reached your monthly spend limit.",
        "enforced_spend_limit_reached",
    ),
}
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


@record(frozen=True, slots=True)
class _Call:
    """One checked request to POST /v1/messages."""

    seen: Seen
    model: Model
    request: JsonObject
    marked: bool
    """The body mentions `cache_control`."""
    key: str
    client_reference: str | None
    compacts_above: int | None = None
    """Compacted above so many tokens, on the server."""


@record(frozen=True, slots=True)
class _Made:
    """What an answer says of itself, and what it costs; None: it is not billed."""

    envelope: Envelope
    meters: Meters
    nano: int | None


class Ids:
    """Ids that depend on nothing but the seed and their order."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.count = 0

    def next(self, prefix: str) -> str:
        """The next id, such as `msg_01…`."""
        self.count += 1
        made = blake2b(f"{self.seed}:{self.count}".encode(), digest_size=11)
        return f"{prefix}01{made.hexdigest()}"


class Simulator:
    """A Claude Messages API. One instance is one account: its bill, cache, limits, faults, request log."""

    def __init__(
        self,
        clock: Clock,
        *,
        seed: int = 0,
        limits: Limits | None = None,
        default_geo: str = "global",
    ) -> None:
        self.clock = clock
        self.seed = seed
        self.limits = limits or Limits()
        self.default_geo = default_geo
        """What `inference_geo` is when a request does not say: an account's own setting."""
        self.reset()

    def reset(self) -> None:
        """Forget everything: bill, cache, limits, faults, log, counters."""
        self.bill = Bill()
        self.cache = PromptCache()
        self.rate_limits = RateLimits(self.limits)
        self.faults = FaultBook(self.seed)
        self.log = RequestLog()
        self.ids = Ids(self.seed)
        self.seen_count = 0
        self.answer_count = 0
        self.batches = Batches(self.bill, self.clock, self.ids.next, self._item)

    def reply(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Reply:
        """The plan for one request; never raises for anything a client can send.

        `target` is the path with its query, `body` may be cut off after `MAX_BODY_BYTES` + 1 bytes.
        """
        path, _, query = target.partition("?")
        if path.startswith("/simulator/"):
            return control(self, method, path, query, body)
        seen = self._note(method, path, headers, body)
        try:
            reply = self._answer(seen, query, body)
        except ApiError as error:
            reply = error_reply(error, seen.request_id)
        except orjson.JSONEncodeError:
            reply = error_reply(invalid("the request is nested too deeply"), seen.request_id)
        seen.status = reply.status
        return reply

    def _note(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Seen:
        self.seen_count += 1
        lowered = {name.lower(): value for name, value in headers.items()}
        seen = Seen(
            number=self.seen_count,
            at_us=self.clock.now_us(),
            method=method,
            path=path,
            headers=safe_headers(lowered),
            key=key_of(lowered),
            request_id=self.ids.next("req_"),
            body_bytes=len(body),
        )
        self.log.seen.append(seen)
        return seen

    def _answer(self, seen: Seen, query: str, body: bytes) -> Reply:
        batching = seen.path == BATCHES_PATH or seen.path.startswith(f"{BATCHES_PATH}/")
        if batching and seen.key is not None:
            return self.batches.reply(seen, query, body)
        if not batching and seen.path not in {"/v1/messages", "/v1/messages/count_tokens"}:
            raise ApiError(404, "not_found_error", f"Not found: {seen.path}")
        if not batching and seen.method != "POST":
            raise ApiError(405, "invalid_request_error", "Method Not Allowed")
        if seen.key is None:
            raise ApiError(401, "authentication_error", "invalid x-api-key")
        if len(body) > MAX_BODY_BYTES:
            raise ApiError(413, "request_too_large", "Request exceeds the maximum allowed size")
        counting = seen.path == "/v1/messages/count_tokens"
        request = _parsed(body)
        model = check_request(request, counting=counting)
        seen.request = summary(request)
        check_thinking(self.seed, model, request)
        if counting:
            head = {"request-id": seen.request_id, **SIMULATED}
            return json_reply(200, {"input_tokens": prompt_tokens(request, model)}, head)
        call = _Call(
            seen,
            model,
            request,
            b"cache_control" in body,
            seen.key,
            seen.headers.get(CLIENT_REFERENCE),
            compaction.trigger_of(request, seen.headers),
        )
        return self._generate(call)

    def _generate(self, call: _Call) -> Reply:
        view = look(call.request)
        plan = self._plan(call)
        self.answer_count += 1
        asked_names = (call.model.name, call.request["model"])
        asked = Asked(asked_names, bool(call.request.get("stream")), call.request)
        fault = self.faults.next(asked, self.answer_count)
        call.seen.fault = fault.rule.kind.value if fault.rule else None
        refusal = self._refused(call, fault)
        if refusal is not None:
            return refusal
        now_us = call.seen.at_us
        uncached = plan.meters.prompt - plan.meters.cache_read
        pool = self.rate_limits.take(call.model.name, uncached, now_us)
        room = call.model.window - plan.meters.prompt
        answer = self._composed(call, view, fault, room)
        if _is_compacted(call, plan):
            answer = replace(answer, blocks=[compaction.block(), *answer.blocks])
        pool.output.level -= answer.tokens
        self.cache.commit(plan, now_us, now_us + int(fault.delay_s * US_PER_S))
        return self._billed(call, answer, plan, fault, pool)

    def _plan(self, call: _Call) -> CachePlan:
        request = compaction.effective(call.request)
        if call.marked:
            plan = self.cache.plan(request, call.model, call.key, call.seen.at_us)
        else:
            plan = CachePlan(Meters(input=prompt_tokens(request, call.model)))
        if plan.meters.prompt > call.model.window:
            raise invalid(
                f"prompt is too long: {plan.meters.prompt} tokens > {call.model.window} maximum"
            )
        return plan

    def _refused(self, call: _Call, fault: Fault) -> Reply | None:
        """The reply of a fault that strikes before anything is generated."""
        rule = fault.rule
        if rule is None:
            return None
        if rule.kind is Kind.HTML_PAGE and not rule.billed:
            page = html_reply(rule.status, call.seen.request_id)
            return replace(page, delay_s=fault.delay_s)
        if rule.kind not in _ERRORS and rule.kind is not Kind.ERROR:
            return None
        reply = error_reply(_error(rule), call.seen.request_id)
        return replace(reply, delay_s=fault.delay_s)

    def _composed(self, call: _Call, view: View, fault: Fault, room: int) -> Answer:
        request, directive = call.request, view.directive or Directive()
        if request["max_tokens"] == 0:
            return Answer([], "max_tokens", None, None, 0, 0, 0, billed=True)
        stop = "refusal" if fault.kind is Kind.REFUSAL else None
        if fault.rule is not None and fault.kind is Kind.STOP:
            stop = fault.rule.stop
        made = draft(view, request, self.ids, stop)
        thought = None
        if directive.thinking and made.billed:
            made.thinking_tokens = directive.thinking_tokens
            digest = prefix_digests(request)[-1]
            thought = thinking_block(self.seed, call.model, made.thinking_tokens, digest)
        stops = request.get("stop_sequences") or []
        answer = fit(made, thought, request["max_tokens"], room, stops)
        if fault.kind in TOOL_KINDS:
            return with_odd_calls(answer, fault.kind, request, self.ids)
        return answer

    def _made(
        self, call: _Call, answer: Answer, plan: CachePlan, fault: Fault, *, batch: bool = False
    ) -> _Made:
        compacted = _is_compacted(call, plan)
        prompt = compaction.after(call.request, call.model) if compacted else plan.meters
        meters = replace(prompt, output=answer.tokens, thinking=answer.thinking_tokens)
        if fault.rule is not None and fault.kind is Kind.USAGE_TIMES:
            meters = _times(meters, fault.rule.factor)
        geo = (call.request.get("inference_geo") or self.default_geo) if call.model.geo else None
        fast = call.request.get("speed") == "fast" and call.model.fast is Fast.YES
        speed, tier = "fast" if fast else "standard", "batch" if batch else "standard"
        usage = usage_of(meters, answer, geo=geo or "not_available", speed=speed, tier=tier)
        passes = [meters]
        if compacted:
            passes = [compaction.summing(plan.meters), meters]
            usage["iterations"] = compaction.iterations(*passes)
        named = fault.rule.echo if fault.rule and fault.kind is Kind.WRONG_MODEL else None
        envelope = Envelope(
            self.ids.next("msg_"), named or call.model.name, _reported(usage, fault.kind)
        )
        nano = charge_nano(call.model.name, *passes, fast=fast, us_only=geo == "us", batch=batch)
        unbilled = not answer.billed or (fault.rule is not None and fault.rule.billed is False)
        return _Made(envelope, reduce(total, passes), None if unbilled else nano)

    def _bill(self, call: _Call, made: _Made) -> Line | None:
        if made.nano is None:
            return None
        return self.bill.add(
            call.model.name,
            made.meters,
            made.nano,
            request_id=call.seen.request_id,
            key=call.key,
            client_reference=call.client_reference,
        )

    def _item(self, request: Any, key: str, custom_id: str) -> Result:
        """What becomes of one item of a batch: it is checked only now."""
        at_us, request_id = self.clock.now_us(), self.ids.next("req_")
        seen = Seen(0, at_us, "POST", BATCHES_PATH, {}, key, request_id, 0)
        try:
            model = check_request(request)
            require(not request.get("stream"), "stream: not supported in batches")
            require(request["max_tokens"] > 0, "max_tokens: must be greater than 0 in batches")
            check_thinking(self.seed, model, request)
            call = _Call(seen, model, request, "cache_control" in str(request), key, custom_id)
            view, plan = look(request), self._plan(call)
            self.answer_count += 1
            asked = Asked((model.name, request["model"]), stream=False, request=request)
            fault = self.faults.next(asked, self.answer_count)
            if fault.rule is not None and (fault.kind in _ERRORS or fault.kind is Kind.ERROR):
                raise _error(fault.rule)
        except ApiError as error:
            return Result({"type": "errored", "error": error.body(request_id)})
        answer = self._composed(call, view, fault, model.window - plan.meters.prompt)
        self.cache.commit(plan, at_us, at_us)
        made = self._made(call, answer, plan, fault, batch=True)
        value = {"type": "succeeded", "message": message_json(made.envelope, answer)}
        return Result(value, self._bill(call, made))

    def _billed(
        self, call: _Call, answer: Answer, plan: CachePlan, fault: Fault, pool: Pool
    ) -> Reply:
        made = self._made(call, answer, plan, fault)
        head = {"request-id": call.seen.request_id, **SIMULATED, **pool.headers()}
        if fault.rule is not None and fault.kind is Kind.HTML_PAGE:
            page = html_reply(fault.rule.status, call.seen.request_id)
            reply = replace(page, delay_s=fault.delay_s)
        elif call.request.get("stream"):
            events = tuple(stream_events(made.envelope, answer))
            head["content-type"] = "text/event-stream; charset=utf-8"
            reply = shaped(Reply(200, head, events, None), fault)
        else:
            reply = shaped(json_reply(200, message_json(made.envelope, answer), head), fault)
        line = self._bill(call, made)
        if line is None:
            return reply
        return replace(reply, delivered=partial(self.bill.deliver, line))


def _is_compacted(call: _Call, plan: CachePlan) -> bool:
    return call.compacts_above is not None and plan.meters.prompt > call.compacts_above


def _parsed(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise invalid(f"The request body is not valid JSON: {error}") from None


def _error(rule: Rule) -> ApiError:
    if rule.kind is Kind.ERROR:
        error_type = _TYPES.get(rule.status, "api_error" if rule.status >= 500 else "error")
        status, message, code = rule.status, "An error.", None
    else:
        status, error_type, message, code = _ERRORS[rule.kind]
    headers = {}
    if rule.retry_after is not None:
        headers["retry-after"] = rule.retry_after
    if rule.should_retry is not None:
        headers["x-should-retry"] = "true" if rule.should_retry else "false"
    return ApiError(status, error_type, rule.message or message, error_code=code, headers=headers)


def _times(meters: Meters, factor: int) -> Meters:
    return Meters(
        input=meters.input * factor,
        output=meters.output * factor,
        cache_read=meters.cache_read * factor,
        cache_write_5m=meters.cache_write_5m * factor,
        cache_write_1h=meters.cache_write_1h * factor,
        thinking=meters.thinking * factor,
    )


def _reported(usage: JsonObject, kind: Kind) -> JsonObject | None:
    """The usage as the answer states it: what a fault makes of the truth."""
    match kind:
        case Kind.USAGE_MISSING:
            return None
        case Kind.USAGE_NULL:
            return dict.fromkeys(usage)
        case Kind.USAGE_NEGATIVE:
            return {
                name: -value - 1 if isinstance(value, int) else value
                for name, value in usage.items()
            }
        case _:
            return usage
