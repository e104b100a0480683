"""`python -m app reprice`: what it prints, and its exit codes."""

import json
from pathlib import Path

import pytest

from app.__main__ import main
from tests.support.desk import open_desk
from tests.support.history import book, price_file, price_rows
from tests.support.provider import HAIKU


async def test_the_command_in_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A row a model and one for all; amounts in USD to the last nano-dollar."""
    async with open_desk(tmp_path) as desk:
        await book(desk, (HAIKU, 100_001))
    monkeypatch.setenv("BURSAR_DATA_DIR", str(tmp_path))
    file = price_file(tmp_path, *price_rows(), factor=2)
    assert main(["reprice", "--prices", str(file)]) == 0
    header, *rows, kept = capsys.readouterr().out.splitlines()
    assert header.split()[:5] == ["model", "lines", "booked", "repriced", "difference"]
    amounts = ["1", "0.000100001", "0.0002", "0.000099999", "0.00", "0.00", "0.00"]
    assert [row.split() for row in rows] == [[HAIKU, *amounts], ["all", *amounts]]
    assert "0 estimated lines, 0 presumed lines, 0 lines without a price" in kept


async def test_the_command_for_programs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """JSON on stdout; a line without a price is an incomplete answer, and the exit code says so."""
    async with open_desk(tmp_path) as desk:
        await book(desk, (HAIKU, 100_001), ("my-model", 500))
    monkeypatch.setenv("BURSAR_DATA_DIR", str(tmp_path))
    file = price_file(tmp_path, *price_rows())
    assert main(["reprice", "--prices", str(file), "--json"]) == 1
    out, err = capsys.readouterr()
    assert "1 lines were not repriced: no price for my-model." in err
    found = json.loads(out)
    assert found["missing_prices"] == ["my-model"]
    assert set(found["models"]) == {HAIKU, "my-model"}
    nothing = {"lines": 0, "booked_usd": "0.00"}
    assert found["total"] == {
        "confirmed": {
            "lines": 1,
            "booked_usd": "0.000100001",
            "repriced_usd": "0.0001",
            "difference_usd": "-0.000000001",
        },
        "estimated": nothing,
        "presumed": nothing,
        "unpriced": {"lines": 1, "booked_usd": "0.0000005"},
    }
    assert main(["reprice", "--prices", str(file), "--to", "2026-11-22", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["models"] == {}


@pytest.mark.parametrize(
    ("given_", "said"),
    [
        (["--prices", "none.toml"], "none.toml: cannot be read"),
        (["--prices", "none.toml", "--from", "2026-11-23", "--to", "2026-11-22"], "--from must be"),
    ],
)
def test_wrong_usage(capsys: pytest.CaptureFixture[str], given_: list[str], said: str) -> None:
    """One sentence, and the exit code of wrong usage."""
    assert main(["reprice", *given_]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    "given_", [[], ["--prices", "x", "--from", "then"], ["--prices", "x", "--to", "1969-01-01"]]
)
def test_wrong_arguments(capsys: pytest.CaptureFixture[str], given_: list[str]) -> None:
    """The parser says which, and what it expected."""
    with pytest.raises(SystemExit) as stopped:
        main(["reprice", *given_])
    assert stopped.value.code == 2
    assert "error: " in capsys.readouterr().err
