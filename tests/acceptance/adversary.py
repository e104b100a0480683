"""An upstream that means harm, and a witness that reads our balances whenever its bill grows.

What it does to a call follows from the seed, the question, the step and the attempt, not from when they come:
the same tricks are played however the tasks are scheduled.
"""

import asyncio
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import orjson

from app.domain.clock import Clock, SystemClock
from app.simulator.caching import CachePlan
from app.simulator.core import Simulator
from app.simulator.errors import JsonObject
from app.simulator.faults import Fault, Kind
from app.simulator.fit import Answer
from app.simulator.limits import Pool
from app.simulator.prices import Meters
from app.simulator.reply import Ending, Reply

SESSION = "shared"
"""The session a witness watches: all of the bill is its."""
AT_BOUND = "at_bound"
"""Reports, and bills, every token that was reserved."""
TENFOLD = "tenfold"
"""The same, ten times over."""
TENFOLD_PROMPT = "tenfold_prompt"
"""The prompt ten times over, the output at its bound: what a stream can say before it breaks off."""
ITERATIONS = "iterations"
"""Reports a pass that the top level leaves out, a compaction, and bills it."""
ITERATIONS_SHORT = "iterations_short"
"""Reports passes that explain less than the top level says."""
_FACTORS = {AT_BOUND: (1, 1), TENFOLD: (10, 10), TENFOLD_PROMPT: (10, 1)}
"""What the reserved prompt and output are multiplied with."""
_CUT_PAUSE_S = 0.002
"""Between the pieces of a stream that will be cut: what was sent before the cut has arrived."""


class Gate(SystemClock):
    """A clock on which nobody's wait ends before the gate is open."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()

    async def sleep(self, duration_s: float) -> None:
        await self.opened.wait()
        await super().sleep(duration_s)


class Witness:
    """Reads the service's database past the service."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "bursar.db"
        self.looks = 0
        self.violations: list[str] = []

    def look(self, billed_nano: int) -> None:
        """Compare what is billed so far with the session that pays for it, once it is there.

        The bill is read first: what is on it was held before, and what is held only ever becomes spent.
        """
        rows = self._rows(
            "SELECT spent_nano, surplus_nano, reserved_nano, limit_nano FROM accounts"
            " WHERE scope = 'session' AND id = ?",
            f"local/{SESSION}",
        )
        for spent, surplus, reserved, limit in rows:
            self.looks += 1
            if surplus or not billed_nano <= spent + reserved <= limit:
                found = f"{billed_nano=} {spent=} {surplus=} {reserved=} {limit=}"
                self.violations.append(found)

    def bounds_of(self, reference: str) -> tuple[int, int]:
        """Prompt and output tokens that are reserved for an attempt."""
        task_id, step, attempt = reference.split("/")
        started = [
            orjson.loads(data)
            for (data,) in self._rows(
                "SELECT data FROM events WHERE subject = ? AND type = 'attempt_started'", task_id
            )
        ]
        (found,) = [s for s in started if (s["step"], s["attempt"]) == (int(step), int(attempt))]
        return found["prompt_bound_tokens"], found["max_tokens"]

    def _rows(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(f"file:{self._path}?mode=ro", uri=True)) as connection:
            return connection.execute(statement, values).fetchall()


class Adversary(Simulator):
    """A simulator that lies about usage, beside the faults it can be told to have.

    `lies` maps a lie to its probability. A question with `[lie step]` in it (as in `[tenfold 2]`) is told that
    lie at that step.
    """

    def __init__(
        self, witness: Witness, lies: Mapping[str, float], *, clock: Clock, seed: int = 0
    ) -> None:
        self.witness = witness
        self.chances = lies
        self.faults_of: dict[str, str] = {}
        """What struck each attempt, by its reference; `none` for an ordinary answer."""
        self.lies_of: dict[str, str] = {}
        # An account's own setting can make every call US-only, which costs more: the worst that can be met.
        super().__init__(clock, seed=seed, default_geo="us")

    def _generate(self, call: Any) -> Reply:
        self.answer_count = self._draw(call)  # the faults are drawn by this number
        reply = super()._generate(call)
        self.faults_of[call.client_reference] = call.seen.fault or Kind.NONE
        return reply

    def _billed(
        self, call: Any, answer: Answer, plan: CachePlan, fault: Fault, pool: Pool
    ) -> Reply:
        lie = self._lie(call, fault)
        if lie is not None:
            self.lies_of[call.client_reference] = lie
        if lie in _FACTORS:
            prompt, output = self.witness.bounds_of(call.client_reference)
            prompt_factor, output_factor = _FACTORS[lie]
            tokens = prompt * prompt_factor
            # Writing it is the dearest that can become of a prompt, where its caching was asked for.
            worst = Meters(cache_write_5m=tokens) if call.marked else Meters(input=tokens)
            plan = replace(plan, meters=worst)
            answer = replace(answer, tokens=output * output_factor)
        billed_before = self.bill.total.lines
        reply = super()._billed(call, answer, plan, fault, pool)
        if lie in {ITERATIONS, ITERATIONS_SHORT}:
            reply = _in_passes(reply, whole=lie == ITERATIONS)
        if reply.ending is Ending.CUT:
            reply = replace(reply, pause_s=_CUT_PAUSE_S)
        if self.bill.total.lines > billed_before:
            self.witness.look(self.bill.total.nano)
        return reply

    def _lie(self, call: Any, fault: Fault) -> str | None:
        question, step = _question(call), call.client_reference.split("/")[1]
        for lie in _FACTORS:
            if f"[{lie} {step}]" in question:
                return lie
        plain = fault.rule is None and not call.request.get("stream")
        left = self._draw(call) % 1_000 / 1_000
        for lie, chance in self.chances.items():
            left -= chance
            if left < 0:
                return lie if plain or lie in _FACTORS else None
        return None

    def _draw(self, call: Any) -> int:
        place = call.client_reference.partition("/")[2]
        made = f"{self.seed}|{_question(call)}|{place}".encode()
        return int.from_bytes(blake2b(made, digest_size=6).digest(), "big")


def _question(call: Any) -> str:
    question: str = call.request["messages"][0]["content"]
    return question


_CACHED = ("cache_creation_input_tokens", "cache_read_input_tokens", "cache_creation")


def _in_passes(reply: Reply, *, whole: bool) -> Reply:
    """The same answer, its usage told pass by pass: whole in sum, or with the first pass left out."""
    message = orjson.loads(reply.pieces[0])
    usage: JsonObject = message["usage"]
    names = ("input_tokens", "output_tokens")
    first = {name: usage[name] // 3 for name in names}
    second = {**{name: usage[name] for name in _CACHED}, **{n: usage[n] - first[n] for n in names}}
    usage["iterations"] = [{"type": "message", **second}]
    if whole:
        usage["iterations"].insert(0, {"type": "compaction", **first})
        usage.update(second)
    body = orjson.dumps(message)
    return replace(reply, pieces=(body,), length=len(body))
