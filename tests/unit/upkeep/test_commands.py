"""What `backup` and `restore` say, and to whom."""

import json
from pathlib import Path

import pytest

from app.__main__ import main
from app.domain.clock import SystemClock
from app.store.sqlite import SqliteStore
from tests.support.seeding import claimed

URL = "postgresql://bursar@127.0.0.1/bursar"


@pytest.fixture
async def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data directory in force, with one task in flight."""
    folder = tmp_path / "data"
    store = SqliteStore(folder, SystemClock())
    await claimed(store)
    await store.close()
    monkeypatch.setenv("BURSAR_DATA_DIR", str(folder))
    return folder


def test_for_people(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Size, tasks and seconds; a restore says what it means for money, and where the old database is."""
    copy = str(tmp_path / "copy.db")
    assert main(["backup", copy]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"{copy}: 0.")
    assert "MB, 1 tasks (1 unfinished), " in out
    assert err == ""
    assert main(["restore", copy]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"Restored {copy}: 0.")
    said = err.splitlines()
    assert all(line.startswith("bursar: ") for line in said)
    assert "1 tasks were not finished at the backup: they go on at the next start." in said[0]
    assert "they were paid for, no budget counts them" in said[1]
    assert "keys revoked since then open again, tasks erased since then are back" in said[2]
    assert "0 tasks and 0 settlements of 0.00 USD that are not in this one" in said[3]
    assert f"kept as {data / 'bursar.db.replaced-'}" in said[4]


def test_for_programs(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """JSON on stdout; what people must know goes to stderr all the same."""
    copy = tmp_path / "copy.db"
    assert main(["backup", str(copy), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told.pop("seconds") >= 0
    size = copy.stat().st_size
    assert told == {"size_bytes": size, "tasks": 1, "unfinished_tasks": 1, "drifts": 0}
    assert main(["restore", str(copy), "--json"]) == 0
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert told["forgotten"] == {"tasks": 0, "settlements": 0, "spent_usd": "0.00"}
    assert Path(told["replaced"]).is_file()
    assert "no budget counts them" in err


@pytest.mark.parametrize("command", ["backup", "restore"])
def test_not_on_postgres(
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One sentence that names PostgreSQL's own tool; nothing is written."""
    monkeypatch.setenv("BURSAR_DATABASE_URL", URL)
    assert main([command, str(tmp_path / "copy.db")]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "pg_dump" in err
    assert not list(tmp_path.iterdir())


def test_refusals(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One sentence, exit code 1."""
    copy = tmp_path / "copy.db"
    copy.write_text("precious")
    assert main(["backup", str(copy)]) == 1
    assert capsys.readouterr().err == f"bursar: {copy} exists already; --force replaces it.\n"
    assert main(["restore", str(copy)]) == 1
    assert "not a" in capsys.readouterr().err
    assert main(["restore", str(data / "bursar.db")]) == 1
    assert "in use, not a backup" in capsys.readouterr().err
