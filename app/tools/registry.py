"""Which tools there are.

An installed distribution adds its own through the entry point group `bursar.tools`. Its module:

    from app.tools.port import Tool

    def lookup(word: str) -> str:
        "Explain one word of the house dictionary."
        return DICTIONARY.get(word, "")

    tool = Tool.from_function(lookup, idempotent=True)

and its pyproject.toml: `[project.entry-points."bursar.tools"]`, `lookup = "acme.dictionary:tool"`.
The value may also be a callable without arguments that returns a Tool or a list of Tools. A coroutine is
cancelled when its task is; a plain function that takes long asks `app.tools.threads.given_up()` now and then.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from importlib.metadata import EntryPoint, entry_points

from app.tools.errors import DuplicateToolError, ToolPluginError, UnknownToolError
from app.tools.port import JsonObject, Tool
from app.tools.rest import READ_RESULT
from app.tools.threads import THREAD_LIMIT, ToolThreads

ENTRY_POINT_GROUP = "bursar.tools"
STRAGGLER_LIMIT = 64


class ToolRegistry:
    """Tools by name, and what running them shares. One to a process.

    `thread_limit` bounds the threads for plain functions; `straggler_limit` the coroutines that
    were told to stop and have not: beyond it, coroutine tools are refused.
    """

    def __init__(
        self,
        tools: Iterable[Tool] = (),
        *,
        thread_limit: int = THREAD_LIMIT,
        straggler_limit: int = STRAGGLER_LIMIT,
    ) -> None:
        self.threads = ToolThreads(thread_limit)
        self.stragglers: set[asyncio.Task[object]] = set()
        self.straggler_limit = straggler_limit
        self._tools: dict[str, Tool] = {}
        for tool in tools:
            self.register(tool)

    def register(self, tool: Tool) -> None:
        """Add a tool.

        Raises:
            DuplicateToolError: the name is taken.
        """
        if tool.name in self._tools:
            raise DuplicateToolError(tool.name, self._tools[tool.name].source, tool.source)
        self._tools[tool.name] = tool

    def find(self, name: str) -> Tool | None:
        """The tool of that name, if there is one."""
        return self._tools.get(name)

    def get(self, name: str) -> Tool:
        """The tool of that name.

        Raises:
            UnknownToolError: there is none.
        """
        tool = self._tools.get(name)
        if tool is None:
            raise UnknownToolError(name, self.names())
        return tool

    def names(self) -> tuple[str, ...]:
        """All names, sorted."""
        return tuple(sorted(self._tools))

    def definitions(self, names: Iterable[str]) -> tuple[JsonObject, ...]:
        """The `tools` of a model request, in the order of `names`, keys always in the same order.

        Raises:
            UnknownToolError: one of them is not registered.
        """
        return tuple(_definition(self.get(name)) for name in self.offered(names))

    def offered(self, names: Iterable[str]) -> tuple[str, ...]:
        """The names, and what comes with them: results that may be long can be read on.

        Raises:
            UnknownToolError: one of them is not registered.
        """
        named = tuple(names)
        long = any(self.get(name).may_be_long for name in named)
        if not long or READ_RESULT in named or READ_RESULT not in self._tools:
            return named
        return (*named, READ_RESULT)

    def load_entry_points(self) -> tuple[str, ...]:
        """Register what installed distributions bring; their tools' names.

        Raises:
            ToolPluginError: one is broken; names the distribution.
            DuplicateToolError: one brings a name that is taken.
        """
        found = entry_points(group=ENTRY_POINT_GROUP)
        loaded: list[str] = []
        for point in sorted(found, key=lambda point: (_distribution(point), point.name)):
            for tool in _load(point):
                self.register(tool)
                loaded.append(tool.name)
        return tuple(loaded)

    def close(self) -> None:
        """Let the threads end; a hung one ends with the process."""
        self.threads.close()


def _definition(tool: Tool) -> JsonObject:
    return {
        "name": tool.name,
        "description": tool.description,
        "input_schema": tool.input_schema,
    }


def _load(point: EntryPoint) -> list[Tool]:
    try:
        value = point.load()
        if callable(value):
            value = value()
    except (Exception, SystemExit) as error:  # foreign code may raise anything
        reason = f"{type(error).__name__}: {error}"
        raise ToolPluginError(point.name, _distribution(point), reason) from error
    tools = list(value) if isinstance(value, list | tuple) else [value]
    for tool in tools:
        if not isinstance(tool, Tool):
            reason = f"expected a Tool or a list of Tools, got {type(tool).__name__}"
            raise ToolPluginError(point.name, _distribution(point), reason)
    return [_labelled(tool, point) for tool in tools]


def _labelled(tool: Tool, point: EntryPoint) -> Tool:
    if point.dist is None or tool.source:
        return tool
    return replace(tool, source=point.dist.name, version=tool.version or point.dist.version)


def _distribution(point: EntryPoint) -> str:
    return "(unknown)" if point.dist is None else f"{point.dist.name} {point.dist.version}"
