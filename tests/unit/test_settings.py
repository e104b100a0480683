"""Settings: their sources, their bounds, and the sentence for everything that is wrong."""

import json
from decimal import Decimal
from pathlib import Path

import pytest

from app import settings
from app.__main__ import main
from app.domain.task import Complexity
from app.needs import require_provider
from app.opening import load_prices
from app.settings import Settings, SettingsError, load, unknown_variables
from tests.support.clock import FakeClock

CANARY = "canary-4b1d-not-a-real-key"


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`.env` is read from the working directory: an empty one of the test's own."""
    monkeypatch.chdir(tmp_path)


def _problems() -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load()
    assert str(caught.value) == "\n".join(caught.value.problems)
    return caught.value.problems


class TestDefaults:
    """What is in force when nothing is said."""

    def test_values(self) -> None:
        """The documented defaults."""
        shown = load()
        assert (shown.host, shown.port, shown.data_dir) == ("127.0.0.1", 8_000, Path("data"))
        assert (shown.workers, shown.queue_limit, shown.max_steps) == (64, 10_000, 10)
        assert (shown.max_tokens, shown.service_budget_usd) == (2_048, None)
        assert (shown.task_budget_usd, shown.session_budget_usd) == (Decimal("0.50"), Decimal(5))
        assert shown.routes == {
            Complexity.SIMPLE: "claude-haiku-5-5",
            Complexity.MEDIUM: "claude-sonnet-5-5",
            Complexity.COMPLEX: "claude-opus-5-5",
        }

    def test_someone_must_answer(self) -> None:
        """Neither key, nor address, nor simulator: one sentence that names all three ways out."""
        with pytest.raises(SettingsError) as caught:
            require_provider(load())
        (sentence,) = caught.value.problems
        for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL", "BURSAR_SIMULATOR=on"):
            assert name in sentence
        for given in (
            {"anthropic_api_key": CANARY},
            {"anthropic_base_url": "http://127.0.0.1:1"},
            {"simulator": "on"},
            {"simulator": "auto"},
        ):
            require_provider(load(**given))

    @pytest.mark.parametrize(
        ("mode", "key", "simulated"),
        [
            ("off", CANARY, False),
            ("auto", CANARY, False),
            ("auto", None, True),
            ("on", CANARY, True),
        ],
    )
    def test_simulated(self, mode: str, key: str | None, simulated: bool) -> None:
        """`auto` simulates exactly when there is nobody else to ask."""
        assert load(simulator=mode, anthropic_api_key=key).simulated is simulated


WRONG = [
    ("BURSAR_PORT", "abc", "integer"),
    ("BURSAR_PORT", "-1", "0"),
    ("BURSAR_PORT", "65536", "65535"),
    ("BURSAR_WORKERS", "0", "1"),
    ("BURSAR_WORKERS", "10001", "10000"),
    ("BURSAR_QUEUE_LIMIT", "0", "1"),
    ("BURSAR_QUEUE_LIMIT", "1000001", "1000000"),
    ("BURSAR_MAX_STEPS", "0", "1"),
    ("BURSAR_MAX_STEPS", "101", "100"),
    ("BURSAR_MAX_TOKENS", "0", "1"),
    ("BURSAR_MAX_TOKENS", "128001", "128000"),
    ("BURSAR_RETRY_ATTEMPTS", "0", "1"),
    ("BURSAR_RETRY_ATTEMPTS", "11", "10"),
    ("BURSAR_TASK_BUDGET_USD", "0", "greater than 0"),
    ("BURSAR_TASK_BUDGET_USD", "-1", "greater than 0"),
    ("BURSAR_TASK_BUDGET_USD", "NaN", "finite"),
    ("BURSAR_TASK_BUDGET_USD", "inf", "finite"),
    ("BURSAR_TASK_BUDGET_USD", "1e999", "1000000"),
    ("BURSAR_SESSION_BUDGET_USD", "0.0000000001", "9 decimal"),
    ("BURSAR_SERVICE_BUDGET_USD", "a lot", "decimal"),
    ("BURSAR_TASK_DEADLINE_S", "0", "greater than 0"),
    ("BURSAR_TASK_DEADLINE_S", "604801", "604800"),
    ("BURSAR_CALL_TIMEOUT_S", "nan", "finite"),
    ("BURSAR_GRACE_S", "-1", "0"),
    ("BURSAR_GRACE_S", "3601", "3600"),
    ("BURSAR_TOOL_RESULT_LIMIT_BYTES", "1023", "1024"),
    ("BURSAR_LOG_LEVEL", "verbose", "'DEBUG', 'INFO'"),
    ("BURSAR_SIMULATOR", "maybe", "'off', 'auto' or 'on'"),
    ("BURSAR_ACCESS_LOG", "perhaps", "boolean"),
    ("BURSAR_DATABASE_URL", "mysql://db.example/bursar", "postgresql://"),
    ("ANTHROPIC_BASE_URL", "ftp://example", "http:// or https://"),
    ("BURSAR_SECRETS_DIR", "nowhere", "no folder nowhere"),
]


class TestWrongValues:
    """One clear sentence each."""

    @pytest.mark.parametrize(("name", "value", "hint"), WRONG)
    def test_sentences(
        self, monkeypatch: pytest.MonkeyPatch, name: str, value: str, hint: str
    ) -> None:
        """The sentence begins with the variable, says what would do, and ends there."""
        monkeypatch.setenv(name, value)
        (sentence,) = _problems()
        assert sentence.startswith(f"{name}: ")
        assert hint in sentence
        assert sentence.endswith(".")
        assert "\n" not in sentence

    def test_all_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Two mistakes are two sentences: nobody mends one a start."""
        monkeypatch.setenv("BURSAR_PORT", "x")
        monkeypatch.setenv("BURSAR_WORKERS", "x")
        assert [sentence.split(":")[0] for sentence in _problems()] == [
            "BURSAR_PORT",
            "BURSAR_WORKERS",
        ]

    def test_the_value_is_not_repeated(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A secret pasted into the wrong variable does not end up on a screen."""
        for name in ("BURSAR_PORT", "BURSAR_DATABASE_URL", "BURSAR_LOG_LEVEL"):
            monkeypatch.setenv(name, CANARY)
        assert CANARY not in "\n".join(_problems())

    def test_prices_and_routes(self, tmp_path: Path) -> None:
        """A route without a price is found at the start, by the name of its variable."""
        with pytest.raises(SettingsError) as caught:
            load_prices(load(route_simple="gpt-9", route_complex="gpt-10"), FakeClock())
        names = [sentence.split(":")[0] for sentence in caught.value.problems]
        assert names == ["BURSAR_ROUTE_SIMPLE", "BURSAR_ROUTE_COMPLEX"]
        with pytest.raises(SettingsError, match=r"prices\.toml: cannot be read"):
            load_prices(load(price_file=tmp_path / "prices.toml"), FakeClock())

    def test_the_command_line(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Every command that needs settings says the sentences on stderr and exits with 2."""
        monkeypatch.setenv("BURSAR_PORT", "x")
        for command in ("serve", "demo", "config", "healthcheck"):
            assert main([command]) == 2
            said = capsys.readouterr()
            assert said.err.startswith("bursar: BURSAR_PORT: ")
            assert said.out == ""


class TestSources:
    """Environment before `.env` before secrets files before defaults."""

    def test_strength(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each source gives way to a stronger one."""
        folder = tmp_path / "secrets"
        folder.mkdir()
        monkeypatch.setenv("BURSAR_SECRETS_DIR", str(folder))
        assert load().workers == 64
        (folder / "bursar_workers").write_text("1\n")
        assert load().workers == 1
        (tmp_path / ".env").write_text("# a comment\nBURSAR_WORKERS=2\n")
        assert load().workers == 2
        monkeypatch.setenv("BURSAR_WORKERS", "3")
        assert load().workers == 3
        assert load(workers=4).workers == 4

    def test_an_empty_variable_says_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Compose files set variables to nothing; that is not a value."""
        monkeypatch.setenv("BURSAR_WORKERS", "")
        monkeypatch.setenv("BURSAR_SECRETS_DIR", "")
        assert load().workers == 64

    def test_the_key_as_a_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A key mounted as a file is read without its line end."""
        (tmp_path / "anthropic_api_key").write_text(f"{CANARY}\n")
        monkeypatch.setenv("BURSAR_SECRETS_DIR", str(tmp_path))
        assert list(load().secrets()) == [CANARY]

    def test_other_entries_of_env(self, tmp_path: Path) -> None:
        """A `.env` shared with other programs does no harm; ours in it are checked."""
        (tmp_path / ".env").write_text("POSTGRES_PASSWORD=x\nANTHROPIC_API_KEY=from-the-file\n")
        assert list(load().secrets()) == ["from-the-file"]
        (tmp_path / ".env").write_text("BURSAR_PORT=x\n")
        assert _problems()[0].startswith("BURSAR_PORT: ")

    def test_unreadable(self, tmp_path: Path) -> None:
        """A `.env` that is no text is a sentence, too."""
        (tmp_path / ".env").write_bytes(b"\xff\xfe")
        (sentence,) = _problems()
        assert ".env" in sentence


class TestUnknown:
    """A typo is not silent."""

    @pytest.mark.parametrize(
        ("typo", "meant"),
        [
            ("BURSAR_WORKRES", "BURSAR_WORKERS"),
            ("BURSAR_MAX_STEP", "BURSAR_MAX_STEPS"),
            ("BURSAR_ANTHROPIC_API_KEY", "ANTHROPIC_API_KEY"),
            ("BURSAR_TASK_BUDGET", "BURSAR_TASK_BUDGET_USD"),
        ],
    )
    def test_the_nearest_name(self, monkeypatch: pytest.MonkeyPatch, typo: str, meant: str) -> None:
        """The sentence names the variable and the one that was probably meant."""
        monkeypatch.setenv(typo, CANARY)
        assert unknown_variables() == [
            f"{typo} is not a setting and has no effect. Did you mean {meant}?"
        ]

    def test_known_ones(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """No setting is unknown, and what is not ours is not our business."""
        for name in Settings.model_fields:
            monkeypatch.setenv(settings.variable(name), "x")
        monkeypatch.setenv("BURSAR_SECRETS_DIR", "x")
        monkeypatch.setenv("BURSARY", "x")
        assert unknown_variables() == []

    def test_config_says_it(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """`config` warns on stderr, so that its stdout stays JSON."""
        monkeypatch.setenv("BURSAR_WORKRES", "1")
        assert main(["config"]) == 0
        said = capsys.readouterr()
        assert "Did you mean BURSAR_WORKERS?" in said.err
        json.loads(said.out)


class TestConfig:
    """`python -m app config`."""

    def test_masks(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Everything in force is shown by its variable; the key, and a login in the address, is not."""
        monkeypatch.setenv("ANTHROPIC_API_KEY", CANARY)
        monkeypatch.setenv("ANTHROPIC_BASE_URL", f"https://user:{CANARY}@gateway.example/v1")
        monkeypatch.setenv("BURSAR_TASK_BUDGET_USD", "0.25")
        assert main(["config"]) == 0
        said = capsys.readouterr()
        shown = json.loads(said.out)
        assert set(shown) == {settings.variable(name) for name in Settings.model_fields}
        assert shown["ANTHROPIC_API_KEY"] == "********"
        assert shown["ANTHROPIC_BASE_URL"] == "https://********@gateway.example/v1"
        assert shown["BURSAR_TASK_BUDGET_USD"] == "0.25"
        assert CANARY not in said.out + said.err

    def test_no_key_is_no_mask(self) -> None:
        """An unset key is shown as unset."""
        assert load().shown()["ANTHROPIC_API_KEY"] is None

    def test_representation(self) -> None:
        """Settings that somebody prints or logs by mistake keep the key to themselves."""
        assert CANARY not in repr(load(anthropic_api_key=CANARY))
