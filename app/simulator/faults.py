"""Faults, by script or by chance. PUT /simulator/faults takes

    {"seed": 7,
     "script": [{"kind": "overloaded", "repeat": 2}, {"kind": "rate_limit", "retry_after": 0.1}],
     "random": [{"kind": "latency", "delay_s": [0.1, 0.3], "probability": 1},
                {"kind": "cut_mid_stream", "probability": 0.05, "model": "claude-haiku-5-5"}]}

A request takes the first scripted rule that matches it, which is used up; `none` answers plainly and uses a
place up. Without a scripted rule it takes the first random rule whose draw succeeds; the draw depends on
the seed, the request's number since the last reset, and the rule's place. Random `latency` rules add up with
the others. Only requests that pass validation are counted. `Rule` lists the fields of a rule.

| kind | what happens | billed |
|---|---|---|
| `none` | an ordinary answer | yes |
| `rate_limit` | 429; `retry-after` only if `retry_after` is given | no |
| `overloaded`, `server_error` | 529, 500 | no |
| `error` | `status` (502) as an error of the API | no |
| `spend_cap` | 429 with `error_code` `enforced_spend_limit_reached` | no |
| `html_page` | a proxy's page, `status` (502) | `billed` (no) |
| `latency` | the answer after `delay_s` | yes |
| `timeout` | nothing for `delay_s` (600), then the connection is cut | yes |
| `cut_before_headers` | the connection is cut before the first byte | yes |
| `cut_mid_body` | cut in the middle of a JSON answer | yes |
| `cut_mid_stream` | cut in the middle of a stream | yes |
| `stall` | the first half, then nothing for `delay_s` (600), then the connection is cut | yes |
| `drip` | the answer byte by byte, `delay_s` (1) apart | yes |
| `endless` | the answer's beginning, then filling without end; `delay_s` (0) apart | yes |
| `gzip_bomb` | a megabyte that unpacks to a gigabyte | yes |
| `empty_body` | status 200 and not one byte | yes |
| `invalid_utf8` | bytes in the middle that are no text | yes |
| `truncate_json` | half a JSON answer, properly ended | yes |
| `stream_error` | an `overloaded_error` event in the middle of a stream | yes |
| `stream_eof` | a stream that ends properly, without `message_stop` | yes |
| `duplicate_events` | a stream that says everything twice | yes |
| `reordered_events` | a stream that says everything in the wrong order, but for its first and last event | yes |
| `slow_body` | the answer in `pieces` (10), `delay_s` (0.1) apart; stream: between events | yes |
| `refusal` | a refusal before any output | no |
| `stop` | the answer ends as `stop` says (see `app.simulator.directive.STOPS`) | as it says |
| `usage_missing`, `usage_null`, `usage_negative` | the answer's usage lies, the bill does not | yes |
| `usage_nan` | the answer's usage is `NaN` | yes |
| `usage_changing` | a stream that takes back, at its end, most of the usage it had reported | yes |
| `usage_times` | `factor` (10) times the usage, in the answer and on the bill | yes |
| `wrong_model` | the answer names `echo` (a model nobody knows) as its model; the bill knows the truth | yes |
| `bad_tool_json` | a tool call whose input is no JSON object | yes |
| `unknown_tool` | a call of a tool that was not offered | yes |
| `huge_arguments` | a tool call with ten megabytes of arguments | yes |
| `duplicate_ids` | two tool calls of one id | yes |
| `many_calls` | a thousand tool calls at once | yes |

`cut_mid_body` and `truncate_json` match only plain requests; `*stream*`, `*_events` and `usage_changing` only
streaming ones; kinds of tool calls only requests that offer tools. Cuts and stalls come after half of the
answer, or after `after_bytes`.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import blake2b

from app.domain.record import record
from app.simulator.errors import JsonObject


class Kind(StrEnum):
    """What a rule does."""

    NONE = "none"
    RATE_LIMIT = "rate_limit"
    OVERLOADED = "overloaded"
    SERVER_ERROR = "server_error"
    SPEND_CAP = "spend_cap"
    ERROR = "error"
    HTML_PAGE = "html_page"
    LATENCY = "latency"
    TIMEOUT = "timeout"
    CUT_BEFORE_HEADERS = "cut_before_headers"
    CUT_MID_BODY = "cut_mid_body"
    CUT_MID_STREAM = "cut_mid_stream"
    STALL = "stall"
    DRIP = "drip"
    ENDLESS = "endless"
    GZIP_BOMB = "gzip_bomb"
    EMPTY_BODY = "empty_body"
    INVALID_UTF8 = "invalid_utf8"
    TRUNCATE_JSON = "truncate_json"
    STREAM_ERROR = "stream_error"
    STREAM_EOF = "stream_eof"
    DUPLICATE_EVENTS = "duplicate_events"
    REORDERED_EVENTS = "reordered_events"
    SLOW_BODY = "slow_body"
    REFUSAL = "refusal"
    STOP = "stop"
    USAGE_MISSING = "usage_missing"
    USAGE_NULL = "usage_null"
    USAGE_NEGATIVE = "usage_negative"
    USAGE_NAN = "usage_nan"
    USAGE_CHANGING = "usage_changing"
    USAGE_TIMES = "usage_times"
    WRONG_MODEL = "wrong_model"
    BAD_TOOL_JSON = "bad_tool_json"
    UNKNOWN_TOOL = "unknown_tool"
    HUGE_ARGUMENTS = "huge_arguments"
    DUPLICATE_IDS = "duplicate_ids"
    MANY_CALLS = "many_calls"


_AT_ONCE = (0.0, 0.0)
_HANG_S = (600.0, 600.0)
_BETWEEN_S = {Kind.SLOW_BODY: (0.1, 0.1), Kind.DRIP: (1.0, 1.0), Kind.ENDLESS: _AT_ONCE}
"""Kinds whose delay lies between the pieces of the answer."""
_PLAIN_ONLY = {Kind.CUT_MID_BODY, Kind.TRUNCATE_JSON}
_STREAM_ONLY = {
    Kind.CUT_MID_STREAM,
    Kind.STREAM_ERROR,
    Kind.STREAM_EOF,
    Kind.DUPLICATE_EVENTS,
    Kind.REORDERED_EVENTS,
    Kind.USAGE_CHANGING,
}
TOOL_KINDS = frozenset(
    {
        Kind.BAD_TOOL_JSON,
        Kind.UNKNOWN_TOOL,
        Kind.HUGE_ARGUMENTS,
        Kind.DUPLICATE_IDS,
        Kind.MANY_CALLS,
    }
)


@record(frozen=True, slots=True)
class Rule:
    """One fault."""

    kind: Kind
    model: str | None = None
    """Matches only requests that name this model."""
    prompt_contains: str | None = None
    """Matches only requests with this text in the system prompt or a message."""
    repeat: int = 1
    """Scripted: how many requests it serves."""
    probability: float = 1.0
    """Random: from 0 to 1."""
    delay_s: tuple[float, float] | None = None
    """Seconds to wait, one number or [from, to]; any kind may have it."""
    retry_after: str | None = None
    """Value of the `retry-after` header on an error: seconds or an HTTP date."""
    should_retry: bool | None = None
    """Value of the `x-should-retry` header on an error."""
    message: str | None = None
    """The error's message."""
    status: int = 502
    stop: str | None = None
    factor: int = 10
    pieces: int = 10
    billed: bool | None = None
    """Whether a cut or hidden answer was billed, where that differs from the table."""
    after_bytes: int | None = None
    echo: str = "claude-of-tomorrow"

    def matches(self, asked: "Asked") -> bool:
        """Whether the rule is for this request."""
        if self.model is not None and self.model not in asked.models:
            return False
        if asked.stream and self.kind in _PLAIN_ONLY:
            return False
        if not asked.stream and self.kind in _STREAM_ONLY:
            return False
        if self.kind in TOOL_KINDS and not asked.request.get("tools"):
            return False
        return self.prompt_contains is None or self.prompt_contains in asked.text()


@record(frozen=True, slots=True)
class Asked:
    """What rules look at: the model's names, whether it streams, the request."""

    models: tuple[str, ...]
    stream: bool
    request: JsonObject

    def text(self) -> str:
        """All prompt text, joined."""
        contents = [self.request.get("system") or ""]
        contents += [message["content"] for message in self.request["messages"]]
        return "\n".join(_text(content) for content in contents)


def _text(content: object) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    return "\n".join(block.get("text") or _text(block.get("content")) for block in content)


@record(frozen=True, slots=True)
class Fault:
    """What happens to one request: the rule that won, if any, and the seconds to wait first."""

    rule: Rule | None = None
    delay_s: float = 0.0
    pause_s: float = 0.0
    """Between the pieces of a slow answer."""
    stall_s: float = 0.0
    """Before the cut of an answer that stalls."""

    @property
    def kind(self) -> Kind:
        return self.rule.kind if self.rule else Kind.NONE


@dataclass(slots=True)
class FaultBook:
    """The rules in force and how far the script has come."""

    seed: int = 0
    script: list[Rule] = field(default_factory=list)
    random: list[Rule] = field(default_factory=list)
    used: list[int] = field(default_factory=list)
    """How often each scripted rule was taken."""

    def load(self, seed: int, script: list[Rule], random: list[Rule]) -> None:
        """Replace every rule."""
        self.seed, self.script, self.random = seed, script, random
        self.used = [0] * len(script)

    def next(self, asked: Asked, number: int) -> Fault:
        """The fault of request `number`; uses a scripted rule up."""
        scripted = self._scripted(asked)
        rule = scripted
        delay_s = self._delay(rule, number, -1)
        for index, candidate in enumerate(self.random):
            if not candidate.matches(asked) or not self._drawn(candidate, number, index):
                continue
            if candidate.kind is Kind.LATENCY:
                delay_s += self._delay(candidate, number, index)
            elif rule is None:
                rule = candidate
                delay_s += self._delay(candidate, number, index)
        if rule is not None and rule.kind in _BETWEEN_S:
            pause = self._seconds(rule.delay_s or _BETWEEN_S[rule.kind], number, -2)
            return Fault(rule, delay_s, pause)
        if rule is not None and rule.kind is Kind.STALL:
            return Fault(rule, delay_s, stall_s=self._seconds(rule.delay_s or _HANG_S, number, -2))
        return Fault(rule, delay_s)

    def _scripted(self, asked: Asked) -> Rule | None:
        for index, rule in enumerate(self.script):
            if self.used[index] < rule.repeat and rule.matches(asked):
                self.used[index] += 1
                return rule
        return None

    def _drawn(self, rule: Rule, number: int, index: int) -> bool:
        return self._chance(number, index, "draw") < rule.probability

    def _delay(self, rule: Rule | None, number: int, index: int) -> float:
        if rule is None or rule.kind in _BETWEEN_S or rule.kind is Kind.STALL:
            return 0.0
        default = _HANG_S if rule.kind is Kind.TIMEOUT else _AT_ONCE
        return self._seconds(rule.delay_s or default, number, index)

    def _seconds(self, bounds: tuple[float, float], number: int, index: int) -> float:
        low, high = bounds
        return low + (high - low) * self._chance(number, index, "delay")

    def _chance(self, number: int, index: int, what: str) -> float:
        """A number in [0, 1) that depends on nothing but the seed and the arguments."""
        drawn = blake2b(f"{self.seed}:{number}:{index}:{what}".encode(), digest_size=6)
        return int.from_bytes(drawn.digest(), "big") / 2**48
