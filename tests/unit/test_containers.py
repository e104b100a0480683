"""Dockerfile and compose file are what the documents say of them."""

import json
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # its stubs are no dependency of ours

from app.settings import Role, Settings, variable

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
OURS = ("bursar", "api", "worker")
REPLICAS = ("api", "worker")
SETTINGS = {variable(name): field for name, field in Settings.model_fields.items()}
GIVEN = re.compile(r"\$\{(\w+):-([^}]*)\}")
"""A variable of whoever starts it, and what holds without."""


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile, instruction by instruction."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(name, " ".join(rest.split())) for name, _, rest in (x.partition(" ") for x in lines)]


def final_stage() -> list[tuple[str, str]]:
    """What the image is made of."""
    found = instructions()
    last = max(at for at, (name, _) in enumerate(found) if name == "FROM")
    return found[last:]


def said(name: str) -> str:
    """The one such instruction of the final stage."""
    (rest,) = (rest for kind, rest in final_stage() if kind == name)
    return rest


def seconds(text: str) -> float:
    """A duration as compose files have it."""
    found = re.fullmatch(r"(?:(\d+)m)?(?:(\d+)s)?", text)
    assert found is not None, text
    minutes, rest = (int(part or 0) for part in found.groups())
    return timedelta(minutes=minutes, seconds=rest).total_seconds()


class TestImage:
    """The Dockerfile."""

    def test_two_stages_of_one_python(self) -> None:
        """What builds is not in the image; the Python is the oldest that is supported, and its tag is pinned."""
        bases = [rest for name, rest in instructions() if name == "FROM"]
        needs = re.search(r'requires-python = ">=(.+)"', (ROOT / "pyproject.toml").read_text())
        assert needs is not None
        assert bases == [f"python:{needs[1]}-slim AS build", f"python:{needs[1]}-slim"]

    def test_only_locked_packages(self) -> None:
        """Everything is installed by hash; nothing is fetched in another way, or brought by accident."""
        runs = [rest for name, rest in instructions() if name == "RUN"]
        (install,) = (rest for rest in runs if " install --quiet" in rest)
        assert "--require-hashes -r requirements.txt" in install
        assert not [rest for rest in runs if re.search(r"curl|wget|apt|git ", rest)]
        names = [name for name, _ in instructions()]
        assert not {"ADD", "SHELL", "ONBUILD"} & set(names)
        copied = [rest for name, rest in instructions() if name == "COPY"]
        assert copied[:2] == ["requirements.txt .", "app /opt/bursar/src/app"]
        ignored = (ROOT / ".dockerignore").read_text().split()
        assert ignored[:3] == ["*", "!app", "!requirements.txt"]

    def test_nobody_is_root(self) -> None:
        """It runs as a user of its own, who owns the data folder alone."""
        assert said("USER") == "bursar"
        assert "useradd --uid 10001 --gid 10001" in said("RUN")
        assert "install -d -o bursar -g bursar -m 0700 /data" in said("RUN")

    def test_data_lie_where_a_volume_is_named(self) -> None:
        """No anonymous volume: each replica would leave one behind, with nothing in it."""
        assert "VOLUME" not in [name for name, _ in instructions()]
        assert "BURSAR_DATA_DIR=/data" in said("ENV").split()
        assert said("WORKDIR") == "/data"

    def test_it_is_process_one_and_hears_signals(self) -> None:
        """No shell stands between: SIGTERM reaches the service."""
        assert json.loads(said("ENTRYPOINT")) == ["python", "-m", "app"]
        assert json.loads(said("CMD")) == [Role.SERVE]
        assert said("STOPSIGNAL") == "SIGTERM"

    def test_it_says_how_it_is(self) -> None:
        """Every role has the health check: none of the services turns it off or has another."""
        options, _, command = said("HEALTHCHECK").partition(" CMD ")
        assert json.loads(command) == ["python", "-m", "app", "healthcheck"]
        given = dict(option.removeprefix("--").split("=") for option in options.split())
        assert seconds(given["timeout"]) < seconds(given["interval"])
        assert seconds(given["start-period"]) >= 10
        assert not [name for name in OURS if "healthcheck" in SERVICES[name]]

    def test_it_listens_where_it_is_asked(self) -> None:
        """On every address inside, on the port that is exposed and published."""
        assert said("EXPOSE") == str(Settings.model_fields["port"].default)
        assert "BURSAR_HOST=0.0.0.0" in said("ENV").split()
        named = {word.partition("=")[0] for word in said("ENV").split()}
        assert {name for name in named if name.startswith("BURSAR_")} <= set(SETTINGS)


@pytest.mark.parametrize("name", OURS)
class TestOurs:
    """The services that are Bursar."""

    def test_it_can_do_little(self, name: str) -> None:
        """Nothing to write to but /tmp and its volume, no capabilities, no way to more, bounded."""
        service = SERVICES[name]
        assert service["read_only"] is True
        assert service["tmpfs"] == ["/tmp"]  # noqa: S108  (in the container)
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["pids_limit"] > 0
        assert service["mem_limit"]
        assert not {"user", "privileged", "cap_add", "network_mode", "pid", "devices"} & set(
            service
        )

    def test_it_is_stopped_gently_and_started_again(self, name: str) -> None:
        """A stop may take ten seconds longer than the service's own grace; whatever dies comes back."""
        service = SERVICES[name]
        assert (
            seconds(service["stop_grace_period"]) >= Settings.model_fields["grace_s"].default + 10
        )
        assert service["restart"] == "unless-stopped"

    def test_it_has_its_role(self, name: str) -> None:
        """The command is the role; all are one image that is made here."""
        service = SERVICES[name]
        assert service["command"] == [Role.SERVE if name == "bursar" else name]
        assert (service["build"], service["image"]) == (".", "bursar:local")

    def test_its_settings_exist(self, name: str) -> None:
        """Each variable is a setting; without one of the operator's it has the setting's default, but for the simulator."""
        for key, value in SERVICES[name]["environment"].items():
            assert key in SETTINGS
            if key == "BURSAR_DATABASE_URL":
                continue
            given = GIVEN.fullmatch(value)
            assert given is not None
            assert given[1] == key
            default = "auto" if key == "BURSAR_SIMULATOR" else SETTINGS[key].default
            assert given[2] == "" if default is None else type(default)(given[2]) == default


class TestTogether:
    """The compose file as a whole."""

    def test_profiles(self) -> None:
        """Plain `up` is the single container; `scale` adds PostgreSQL, an API and workers."""
        assert set(SERVICES) == {*OURS, "postgres"}
        assert "profiles" not in SERVICES["bursar"]
        for name in (*REPLICAS, "postgres"):
            assert SERVICES[name]["profiles"] == ["scale"]
        assert "container_name" not in SERVICES["worker"]  # there may be many

    def test_replicas_start_behind_their_database(self) -> None:
        """Once it is healthy: asked over TCP, which it listens on only when the cluster is made."""
        for name in REPLICAS:
            assert SERVICES[name]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
        postgres = SERVICES["postgres"]
        user, database = (postgres["environment"][f"POSTGRES_{what}"] for what in ("USER", "DB"))
        asked = ["CMD", "pg_isready", "-h", "127.0.0.1", "-U", user, "-d", database]
        assert postgres["healthcheck"]["test"] == asked
        url = SERVICES["api"]["environment"]["BURSAR_DATABASE_URL"]
        password = postgres["environment"]["POSTGRES_PASSWORD"]
        assert url == f"postgresql://{user}:{password}@postgres:5432/{database}"

    def test_only_this_machine_reaches_them(self) -> None:
        """Ports are published on 127.0.0.1; the database and the workers publish none."""
        ports = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
        assert set(ports) == {"bursar", "api"}
        inside = Settings.model_fields["port"].default
        for published in ports.values():
            (port,) = published
            assert re.fullmatch(rf"127\.0\.0\.1:\$\{{\w+:-\d+\}}:{inside}", port)

    def test_volumes_are_named(self) -> None:
        """The data survive `down`; replicas keep nothing."""
        assert SERVICES["bursar"]["volumes"] == ["bursar-data:/data"]
        assert SERVICES["postgres"]["volumes"] == ["postgres-data:/var/lib/postgresql/data"]
        assert set(COMPOSE["volumes"]) == {"bursar-data", "postgres-data"}
        assert not [name for name in REPLICAS if "volumes" in SERVICES[name]]

    def test_the_database_server(self) -> None:
        """A pinned major version that is supported; no more rights than its entrypoint needs."""
        postgres = SERVICES["postgres"]
        found = re.fullmatch(r"postgres:(\d+)", postgres["image"])
        assert found is not None
        assert int(found[1]) >= 15
        assert postgres["cap_drop"] == ["ALL"]
        assert not {"SYS_ADMIN", "NET_ADMIN", "SYS_PTRACE"} & set(postgres["cap_add"])
        assert postgres["security_opt"] == ["no-new-privileges:true"]
        assert postgres["stop_grace_period"]

    @pytest.mark.parametrize("file", ["Dockerfile", "docker-compose.yml"])
    def test_no_hosts_and_no_secrets(self, file: str) -> None:
        """No registry, mirror or key of anybody's: images by their plain names, secrets from whoever starts it."""
        text = (ROOT / file).read_text()
        assert not re.search(r"https?://|sk-ant|--index-url|--mount=type=secret|\bARG\b", text)
        images = re.findall(r"(?:image:|FROM) (\S+)", text)
        assert images
        assert not [image for image in images if "/" in image or image.endswith("latest")]
        for key, value in re.findall(r"(\w*(?:KEY|PASSWORD|TOKEN|SECRET)\w*): (\S+)", text):
            assert GIVEN.fullmatch(value), key
