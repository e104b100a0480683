"""The model's side of a simulated world: the simulator, behind a network that delays, cuts and loses.

The adapter is the real one; only its transport is ours. A request that has left is answered, and billed,
whatever becomes of the process that sent it.
"""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context
from functools import cache
from typing import Any

import httpx2
import orjson

from app.domain.clock import Clock
from app.llm.anthropic import AnthropicProvider
from app.llm.anthropic_batches import BATCHES_PATH
from app.llm.anthropic_line import REFERENCE_HEADER
from app.llm.batching.port import Batches
from app.llm.provider import ModelAnswer, ModelFailure, ModelRequest, Phase
from app.simulator.reply import Ending, Reply
from tests.simulation.loop import PROCESS
from tests.simulation.now import WORLD, Gone, Nature, VirtualClock, pause

URL = "http://upstream.test"
_ON_ITS_WAY_S = 2.5
"""How long a call may have been on its way to the network: its reservation may wait for a slow disk."""
_TRAVEL_S = (0.001, 0.01, 0.01, 0.2, 1.5)


class Upstream:
    """A `Provider` of one process: the real adapter over a network without sockets."""

    def __init__(self, nature: Nature) -> None:
        self._nature = nature
        self._inner: AnthropicProvider = adapter()
        self._opened = self.failed = False

    def warm_up(self) -> None:
        """The first question sees to it."""

    async def ready(self) -> None:
        """The client is opened beside the loop, which takes a while."""
        if not self._opened:
            await asyncio.get_running_loop().run_in_executor(None, lambda: None)
            self._opened = True

    async def ask(self, request: ModelRequest) -> ModelAnswer:
        if self._nature.over:
            raise Gone
        try:
            answer = await self._inner.ask(request)
        except ModelFailure as failure:
            if failure.phase in (Phase.LOST, Phase.STREAM):
                self._nature.reached["answer lost"] += 1
            raise
        except asyncio.CancelledError as why:
            lost = why.args == ("lease_lost",)
            self._nature.reached["lease lost in mid-call" if lost else "call interrupted"] += 1
            hints = self._nature.hints
            if hints is not None and why.args == ("cancel",):
                task_id = str(request.reference).partition("/")[0]
                self._nature.reached["cancel heard of"] += hints.crossed(task_id)
            raise
        process = PROCESS.get()
        if answer.usage is not None and process is not None:
            now_s = asyncio.get_running_loop().time()
            self._nature.delivered[str(request.reference)] = (process, now_s)
        return answer

    async def count_tokens(self, request: ModelRequest) -> int:
        return await self._inner.count_tokens(request)

    @property
    def batches(self) -> Batches:
        """The real adapter's."""
        return self._inner.batches

    async def close(self) -> None:
        """The adapter is everybody's, and has nothing to close."""


class _Now:
    """The clock of whichever world is running."""

    def now_us(self) -> int:
        return VirtualClock(WORLD.get()).now_us()

    def monotonic_s(self) -> float:
        return VirtualClock(WORLD.get()).monotonic_s()

    async def sleep(self, duration_s: float) -> None:
        await VirtualClock(WORLD.get()).sleep(duration_s)


@cache
def adapter() -> AnthropicProvider:
    """Made once and opened, before the first world begins: it holds nothing of one, and that takes longer than many."""
    clock: Clock = _Now()
    made = AnthropicProvider("simulated", URL, clock=clock, transport=_Network())
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, made.ready()).result()
    return made


class _Network(httpx2.AsyncBaseTransport):
    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        nature = WORLD.get()
        if nature.draw.random() < nature.network_fails:
            raise httpx2.ConnectError("no route to the simulated upstream", request=request)
        _judge_departure(nature, request)
        outside = Context()
        outside.run(WORLD.set, nature)
        delay_s = nature.draw.choice(_TRAVEL_S)
        answering = asyncio.get_running_loop().create_task(
            _answered(nature, request, delay_s), context=outside
        )
        reply = await asyncio.shield(answering)
        if reply.ending is Ending.SILENT:
            raise httpx2.ReadError("cut before the first byte", request=request)
        headers = dict(reply.headers)
        if reply.length is not None:
            headers["content-length"] = str(reply.length)
        return httpx2.Response(reply.status, headers=headers, stream=_Body(reply, request))


def _judge_departure(nature: Nature, request: httpx2.Request) -> None:
    """Nothing leaves a process long after somebody was told that the task is called off, hint or no hint."""
    reference = request.headers.get(REFERENCE_HEADER, "")
    called_off_s = nature.called_off.get(reference.partition("/")[0])
    process = PROCESS.get()
    if called_off_s is None or process is None:
        return
    late_s = process.lived_s(called_off_s, asyncio.get_running_loop().time())
    if late_s > _ON_ITS_WAY_S:
        nature.violations.append(f"{reference} left {late_s:.1f} s after its task was called off")


async def _answered(nature: Nature, request: httpx2.Request, delay_s: float) -> Reply:
    await pause(delay_s)
    _note_messages(nature, request)
    reply = nature.simulator.reply(
        request.method, request.url.raw_path.decode(), request.headers, request.content
    )
    await pause(reply.delay_s + delay_s)
    return reply


def _note_messages(nature: Nature, request: httpx2.Request) -> None:
    """Take down what was asked, byte for byte; cache markers, which are no part of it, left aside."""
    if request.url.path.startswith(BATCHES_PATH):
        _note_items(nature, request)
        return
    messages = orjson.loads(request.content)["messages"]
    if orjson.dumps(messages) not in request.content:
        nature.violations.append("a request is not encoded as it is compared")
    plain = [orjson.dumps(_unmarked(message)) for message in messages]
    nature.asked[request.headers[REFERENCE_HEADER]] = plain


def _note_items(nature: Nature, request: httpx2.Request) -> None:
    """The same of the questions that are sent together."""
    posted = request.method == "POST" and request.url.path == BATCHES_PATH
    asked = orjson.loads(request.content)["requests"] if posted else ()
    for item in asked:
        reference = "/".join(item["custom_id"].rsplit("-", 2))
        messages = item["params"]["messages"]
        nature.asked[reference] = [orjson.dumps(_unmarked(message)) for message in messages]
        nature.reached["question in a batch"] += 1


def _unmarked(message: dict[str, Any]) -> dict[str, Any]:
    """The message in blocks, which text alone is short for, without markers."""
    content = message["content"]
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
    bare = [{k: v for k, v in block.items() if k != "cache_control"} for block in blocks]
    return {**message, "content": bare}


class _Body(httpx2.AsyncByteStream):
    def __init__(self, reply: Reply, request: httpx2.Request) -> None:
        self._reply = reply
        self._request = request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for number, piece in enumerate(self._reply.pieces):
            if number and self._reply.pause_s:
                await pause(self._reply.pause_s)
            yield piece
        if self._reply.ending is Ending.CUT:
            raise httpx2.ReadError("cut in the middle", request=self._request)
        if self._reply.ending is Ending.WHOLE and self._reply.delivered is not None:
            self._reply.delivered()
