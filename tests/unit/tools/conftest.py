"""Fixtures of the tool tests."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from app.tools.port import Tool
from app.tools.registry import ToolRegistry

RegistryOf = Callable[..., ToolRegistry]


@pytest.fixture
def registry_of() -> Iterator[RegistryOf]:
    """Registries of the given tools, closed after the test."""
    made: list[ToolRegistry] = []

    def make(*tools: Tool, **options: Any) -> ToolRegistry:
        made.append(ToolRegistry(tools, **options))
        return made[-1]

    yield make
    for registry in made:
        registry.close()


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What a hung function waits for; opened after the test."""
    event = threading.Event()
    yield event
    event.set()
