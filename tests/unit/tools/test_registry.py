"""Which tools there are, and how installed distributions add theirs."""

import json
from pathlib import Path

import pytest

from app.tools.errors import DuplicateToolError, ToolPluginError, UnknownToolError
from app.tools.registry import ToolRegistry
from tests.unit.tools.conftest import RegistryOf
from tests.unit.tools.support import NO_ARGUMENTS, answer, tool

MODULE_HEAD = """
from app.tools.port import Tool

def greet(name: str) -> str:
    "Greet somebody."
    return f"hello {name}"

def part(value: int) -> int:
    "Give a part."
    return value // 2
"""


class Site:
    """A folder on `sys.path` where fake distributions are installed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def install(self, distribution: str, module: str, source: str, value: str) -> None:
        """A distribution, version 1.0, with one module and one entry point called `it`."""
        (self.folder / f"{module}.py").write_text(MODULE_HEAD + source)
        info = self.folder / f"{distribution}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n"
        )
        (info / "entry_points.txt").write_text(f"[bursar.tools]\nit = {module}:{value}\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.syspath_prepend(str(tmp_path))
    return Site(tmp_path)


async def test_entry_point_that_is_a_tool(site: Site, registry_of: RegistryOf) -> None:
    """A Tool named by an entry point is registered, labelled with its distribution, and runs."""
    site.install("acme-greet", "acme_greet_a", "tool = Tool.from_function(greet)", "tool")
    registry = registry_of()
    assert registry.load_entry_points() == ("greet",)
    loaded = registry.get("greet")
    assert (loaded.source, loaded.version) == ("acme-greet", "1.0")
    assert (await answer(registry, "greet", {"name": "you"})).content == "hello you"


@pytest.mark.parametrize(
    ("module", "source", "names"),
    [
        ("acme_greet_b", "def make(): return Tool.from_function(greet, source='own')", ["greet"]),
        (
            "acme_greet_c",
            "def make(): return [Tool.from_function(part), Tool.from_function(greet)]",
            ["greet", "part"],
        ),
        ("acme_greet_d", "make = [Tool.from_function(part)]", ["part"]),
    ],
)
def test_other_forms(
    site: Site, registry_of: RegistryOf, module: str, source: str, names: list[str]
) -> None:
    """A callable may give one tool or several; a list works as well."""
    site.install("acme", module, source, "make")
    registry = registry_of()
    registry.load_entry_points()
    assert list(registry.names()) == names


def test_several_distributions_in_order(site: Site, registry_of: RegistryOf) -> None:
    """Distributions load in the order of their names, on every machine alike."""
    site.install("zeta", "acme_z", "tool = Tool.from_function(greet)", "tool")
    site.install("alpha", "acme_y", "tool = Tool.from_function(part)", "tool")
    assert registry_of().load_entry_points() == ("part", "greet")


@pytest.mark.parametrize(
    ("module", "source", "reason"),
    [
        ("broken_a", "raise RuntimeError('no licence')", "RuntimeError: no licence"),
        ("broken_b", "raise SystemExit(2)", "SystemExit: 2"),
        ("broken_c", "", "AttributeError"),
        ("broken_d", "tool = 'text'", "expected a Tool or a list of Tools, got str"),
        ("broken_e", "def tool(): return [1]", "expected a Tool or a list of Tools, got int"),
        ("broken_f", "def tool(x): return x", "TypeError"),
        ("broken_g", "tool = Tool.from_function", "TypeError"),
    ],
)
def test_broken_plug_in_names_its_distribution(
    site: Site, registry_of: RegistryOf, module: str, source: str, reason: str
) -> None:
    """Whatever is wrong with a plug-in, the operator reads whose it is."""
    site.install("acme-broken", module, source, "tool")
    with pytest.raises(ToolPluginError, match=r"'it' of distribution acme-broken 1\.0") as caught:
        registry_of().load_entry_points()
    assert reason in str(caught.value)


def test_plug_in_cannot_take_a_name(site: Site, registry_of: RegistryOf) -> None:
    """A plug-in does not replace a tool that is there."""
    site.install("acme-shadow", "acme_shadow", "tool = Tool.from_function(greet)", "tool")
    registry = registry_of(tool(lambda _: "mine", name="greet"))
    with pytest.raises(DuplicateToolError, match=r"'greet'.*by the program and by acme-shadow"):
        registry.load_entry_points()


def test_duplicate_name() -> None:
    """A name is given once; the error names both owners."""
    registry = ToolRegistry([tool(lambda _: "a", source="one")])
    with pytest.raises(DuplicateToolError, match="by one and by two"):
        registry.register(tool(lambda _: "b", source="two"))


def test_unknown_name() -> None:
    """Asking for a tool that is not there names those that are."""
    registry = ToolRegistry([tool(lambda _: "a")])
    assert registry.find("nope") is None
    with pytest.raises(UnknownToolError, match="no tool named 'nope'; registered: probe"):
        registry.get("nope")
    with pytest.raises(UnknownToolError):
        registry.definitions(["probe", "nope"])


def test_definitions_are_stable() -> None:
    """Definitions come in the order asked for and serialise to the same bytes every time."""
    registry = ToolRegistry([tool(lambda _: "x", name=name) for name in ("b", "a", "c")])
    assert registry.names() == ("a", "b", "c")
    first = registry.definitions(["c", "a"])
    assert [entry["name"] for entry in first] == ["c", "a"]
    assert list(first[0]) == ["name", "description", "input_schema"]
    assert first[0]["input_schema"] == NO_ARGUMENTS
    assert json.dumps(first) == json.dumps(registry.definitions(["c", "a"]))
    first[0]["cache_control"] = {"type": "ephemeral"}
    assert "cache_control" not in registry.definitions(["c"])[0]
