"""Thinking blocks: no visible text, and a signature that binds them to a model and a conversation.

A signature says which model thought, how many tokens it took, and a digest of everything before it, under
a keyed checksum. Whoever changes the block, or (on models that check it) the conversation, is found out.
"""

from collections.abc import Iterable
from hashlib import blake2b

import orjson

from app.domain.record import record
from app.simulator.errors import JsonObject, invalid
from app.simulator.models import Model
from app.simulator.prompt import as_blocks

_DIGEST_BYTES = 12


@record(frozen=True, slots=True)
class Signature:
    """What a signature says."""

    model: str
    tokens: int
    digest: str


def prefix_digests(request: JsonObject) -> list[str]:
    """For each message, a digest of all that stands before it; cache markers do not count."""
    running = blake2b(digest_size=_DIGEST_BYTES)
    _absorb(running, [as_blocks(request.get("system") or []), request.get("tools")])
    digests = []
    for message in request["messages"]:
        digests.append(running.hexdigest())
        _absorb(running, [message["role"], as_blocks(message["content"])])
    return [*digests, running.hexdigest()]


def _absorb(running: blake2b, value: object) -> None:
    running.update(orjson.dumps(_unmarked(value)))


def _unmarked(value: object) -> object:
    if isinstance(value, dict):
        return {key: _unmarked(item) for key, item in value.items() if key != "cache_control"}
    if isinstance(value, list):
        return [_unmarked(item) for item in value]
    return value


def _checksum(seed: int, said: str, text: str) -> str:
    key = seed.to_bytes(8, "big", signed=True)
    return blake2b(f"{said}|{text}".encode(), key=key, digest_size=_DIGEST_BYTES).hexdigest()


def thinking_block(seed: int, model: Model, tokens: int, digest: str) -> JsonObject:
    """A thinking block of `tokens` hidden tokens; `digest` covers the conversation before it."""
    said = f"{model.name}:{tokens}:{digest}"
    signature = f"{said}:{_checksum(seed, said, '')}"
    return {"type": "thinking", "thinking": "", "signature": signature}


def read_signature(seed: int, block: JsonObject, where: str) -> Signature:
    """What the block's signature says.

    Raises:
        ApiError: 400, it was not signed here or was changed since.
    """
    said, _, checksum = str(block.get("signature", "")).rpartition(":")
    if checksum != _checksum(seed, said, str(block.get("thinking"))):
        raise invalid(f"{where}: Invalid `signature` in `thinking` block")
    name, tokens, digest = said.split(":")
    return Signature(name, int(tokens), digest)


def check_thinking(seed: int, model: Model, request: JsonObject) -> None:
    """Check every thinking block sent back.

    Raises:
        ApiError: 400, a block was changed, or the conversation before it was.
    """
    found = list(_thinking_blocks(request["messages"]))
    if not found:
        return
    digests = prefix_digests(request)
    for index, where, block in found:
        signature = read_signature(seed, block, where)
        if signature.model != model.name:
            continue  # another model's thinking is dropped in silence
        if model.binds_thinking and signature.digest != digests[index]:
            raise invalid(f"{where}: this `thinking` block is bound to a different conversation")


def _thinking_blocks(messages: list[JsonObject]) -> Iterable[tuple[int, str, JsonObject]]:
    for index, message in enumerate(messages):
        if message["role"] != "assistant" or isinstance(message["content"], str):
            continue
        for position, block in enumerate(message["content"]):
            if block["type"] == "thinking":
                yield index, f"messages.{index}.content.{position}", block
