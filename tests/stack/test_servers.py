"""The servers of the local stack, real ones: they protect what they should and find what they must."""

import gzip
import io
import os
import re
import socket
import struct
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen
from uuid import uuid4

import psycopg
import pytest
from redis import Redis

from stack.errors import StackError
from stack.ports import free_port, free_ports
from stack.processes import POLL_SECONDS
from stack.servers import clamd as clamd_module
from stack.servers import postgres as postgres_module
from stack.servers import seaweedfs as seaweedfs_module
from stack.servers import signatures
from stack.servers.clamd import Clamd
from stack.servers.postgres import Postgres, create_database
from stack.servers.seaweedfs import PORTS, SeaweedFS
from stack.servers.signatures import EICAR_NAME, TEST_MALWARE, TEST_MALWARE_NAME
from stack.servers.valkey import Valkey
from stack.sockets import socket_path
from tests.servers import ClamdServer, PostgresServer, SeaweedFSServer, ValkeyServer
from workers.known_bad import EICAR

pytestmark = pytest.mark.system


def scan(server: ClamdServer, content: bytes) -> str:
    """Return clamd's answer to `content`, sent down its stream."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(30)
        client.connect(server.address.removeprefix("unix:"))
        client.sendall(b"zINSTREAM\0")
        for start in range(0, len(content), 65536):
            chunk = content[start : start + 65536]
            client.sendall(struct.pack("!I", len(chunk)) + chunk)
        client.sendall(struct.pack("!I", 0))
        return client.makefile("rb").read().rstrip(b"\0").decode()


def zipped(content: bytes) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("holiday.txt", content)
    return archive.getvalue()


def encrypted(archive: bytes) -> bytes:
    """Return the zip `archive` marked as encrypted, in its local and in its central header."""
    content = bytearray(archive)
    for header, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(header) + flags] |= 1
    return bytes(content)


@pytest.mark.parametrize("wrap", [lambda it: it, lambda it: b"before\n" + it + b"\nafter", zipped])
@pytest.mark.parametrize(
    ("malware", "name"), [(EICAR, EICAR_NAME), (TEST_MALWARE, TEST_MALWARE_NAME)], ids=["eicar", "ours"]
)
def test_clamd_finds_the_test_texts(clamd: ClamdServer, malware: bytes, name: str, wrap: type[bytes]) -> None:
    assert scan(clamd, wrap(malware)) == f"stream: {name} FOUND"


def test_clamd_lets_clean_files_pass(clamd: ClamdServer) -> None:
    assert scan(clamd, zipped(b"nothing but sunshine")) == "stream: OK"


def test_clamd_does_not_call_an_encrypted_archive_clean(clamd: ClamdServer) -> None:
    assert scan(clamd, encrypted(zipped(b"who knows"))) == "stream: Heuristics.Encrypted.Zip FOUND"


def test_clamd_does_not_call_clean_what_is_too_large_to_look_at_whole(tmp_path: Path) -> None:
    own = signatures.choose(tmp_path / "signatures", own_only=True)
    server = ClamdServer(Clamd(tmp_path, own, max_file_bytes=4 * 2**20))
    server.start()
    try:
        assert scan(server, bytes(4 * 2**20)) == "stream: OK"
        # Found wherever the scanner looks; beyond that, whether one member is too large or all together.
        for size, verdict in ((6, EICAR_NAME), (25, "Heuristics.Limits.Exceeded.MaxScanSize")):
            unpacked = bytes(size * 2**20) + EICAR
            assert scan(server, zipped(unpacked)) == f"stream: {verdict} FOUND"
            assert scan(server, gzip.compress(unpacked)) == f"stream: {verdict} FOUND"
    finally:
        server.stop()


def test_clamd_serves_again_after_an_outage(clamd: ClamdServer) -> None:
    for end in (clamd.stop, clamd.kill):
        end()
        assert not clamd.server.ready()
        clamd.start()
        assert scan(clamd, EICAR).endswith("FOUND")


def test_a_missing_clamd_is_one_sentence_with_what_to_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(clamd_module, "_SYSTEM_DIRECTORIES", ())
    own = signatures.choose(tmp_path / "signatures", own_only=True)
    with pytest.raises(StackError) as caught:
        Clamd(tmp_path / "clamd", own, 1).prepare()
    assert str(caught.value) == "The virus scanner is missing; type: sudo apt-get install clamav-daemon"


def test_a_file_limit_beyond_clamd_is_refused(tmp_path: Path) -> None:
    own = signatures.choose(tmp_path / "signatures", own_only=True)
    with pytest.raises(StackError, match="ROOMKEEPER_MAX_FILE_BYTES"):
        Clamd(tmp_path / "clamd", own, 2**31).prepare()


def test_real_signatures_are_used_where_they_are(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir()
    (real / "bytecode.cvd").touch()
    chosen = signatures.choose(tmp_path / "own", real=real)
    assert (chosen.directory, chosen.real) == (tmp_path / "own", False)
    assert chosen.warning is not None
    assert "sudo freshclam" in chosen.warning

    (real / "daily.cld").touch()
    chosen = signatures.choose(tmp_path / "own", real=real)
    assert (chosen.directory, chosen.real, chosen.warning) == (real, True, None)
    assert not signatures.choose(tmp_path / "own", own_only=True, real=real).real


def test_no_file_of_ours_holds_the_test_virus_itself() -> None:
    source = Path(signatures.__file__)
    compiled = list((source.parent / "__pycache__").glob("signatures.*.pyc"))
    for file in [source, *compiled]:
        assert EICAR not in file.read_bytes(), file


def test_valkey_keeps_data_through_a_kill(valkey: ValkeyServer, broker_url: str) -> None:
    with Redis.from_url(broker_url) as client:
        client.rpush("queue", "message")
        # What everysec promises is on disk once the next sync is through.
        assert client.waitaof(1, 0, 5000) == [1, 0]
    valkey.kill()
    valkey.start()
    with Redis.from_url(broker_url) as client:
        assert client.lrange("queue", 0, -1) == [b"message"]


def test_valkey_refuses_rather_than_evicts(broker_url: str) -> None:
    with Redis.from_url(broker_url) as client:
        settings = client.config_get("*")
    assert settings["maxmemory-policy"] == "noeviction"
    assert settings["appendonly"] == "yes"
    assert settings["appendfsync"] == "everysec"
    assert settings["bind"] == "127.0.0.1"


def test_postgres_runs_whoever_we_are(postgres: PostgresServer, empty_database: str) -> None:
    with psycopg.connect(empty_database) as connection:
        row = connection.execute("SELECT current_user, pg_encoding_to_char(6), inet_server_addr()").fetchone()
    assert row is not None
    assert row[:2] == ("roomkeeper", "UTF8")
    # The files stay ours: no other user was created or needed.
    assert (postgres.server.directory / "data").stat().st_uid == os.getuid()


def test_postgres_keeps_data_through_a_kill(postgres: PostgresServer, empty_database: str) -> None:
    with psycopg.connect(empty_database) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS one")
        connection.commit()
        connection.execute("CHECKPOINT")
    postgres.kill()
    postgres.start()
    with psycopg.connect(empty_database) as connection:
        assert connection.execute("SELECT one FROM kept").fetchone() == (1,)


def test_postgres_as_root_without_user_namespaces_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing = tmp_path / "unshare"
    refusing.write_text("#!/bin/sh\nexit 1\n")
    refusing.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    postgres_module.as_ordinary_user.cache_clear()
    try:
        with pytest.raises(StackError, match="run this as an ordinary user"):
            Postgres(tmp_path, 1).prepare()
    finally:
        postgres_module.as_ordinary_user.cache_clear()


def test_an_interrupted_initdb_is_done_again(tmp_path: Path) -> None:
    server = PostgresServer(Postgres(tmp_path, 1, durable=False))

    def interrupted(command: object) -> None:
        (tmp_path / "data.new").mkdir()
        (tmp_path / "data.new" / "PG_VERSION").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        server.server.prepare(interrupted)
    assert not (tmp_path / "data").exists()
    server.server.prepare()
    assert (tmp_path / "data" / "global" / "pg_control").exists()


def test_a_database_is_created_once(postgres: PostgresServer) -> None:
    assert create_database(postgres.server, "with space")
    assert not create_database(postgres.server, "with space")


def test_seaweedfs_keeps_data_through_a_kill(seaweedfs: SeaweedFSServer, bucket: str) -> None:
    for key in ("one", "two", "three"):
        seaweedfs.client.put_object(Bucket=bucket, Key=key, Body=key.encode())
    # Its ordinary end, too.
    for end in (seaweedfs.kill, seaweedfs.stop):
        end()
        assert not seaweedfs.server.ready()
        seaweedfs.start()
        for key in ("one", "two", "three"):
            assert seaweedfs.client.get_object(Bucket=bucket, Key=key)["Body"].read() == key.encode()
        # Ready means that it takes something, too.
        seaweedfs.client.put_object(Bucket=bucket, Key="one", Body=b"one")


def test_seaweedfs_asks_for_its_key_and_listens_here_only(seaweedfs: SeaweedFSServer, bucket: str) -> None:
    seaweedfs.client.put_object(Bucket=bucket, Key="key", Body=b"secret")
    with pytest.raises(HTTPError, match="403"):
        urlopen(f"{seaweedfs.server.address}/{bucket}/key")
    for port in seaweedfs.server.ports.values():
        with socket.socket() as client:
            assert client.connect_ex(("127.0.0.1", port)) == 0
        with socket.socket() as client:
            assert client.connect_ex(("127.0.0.2", port)) != 0
    assert (seaweedfs.server.directory / "s3.json").stat().st_mode & 0o777 == 0o600


def test_seaweedfs_is_not_ready_before_all_its_parts_are(seaweedfs: SeaweedFSServer) -> None:
    server = seaweedfs.server
    assert server.ready()
    for part in ("s3", "master"):
        assert not replace(server, ports={**server.ports, part: free_port()}).ready()


def test_a_bucket_is_created_once(seaweedfs: SeaweedFSServer, bucket: str) -> None:
    seaweedfs.client.put_object(Bucket=bucket, Key="key", Body=b"kept")
    assert seaweedfs.server.has_buckets(bucket)
    assert seaweedfs.client.get_object(Bucket=bucket, Key="key")["Body"].read() == b"kept"


def test_a_missing_seaweedfs_is_one_sentence_with_what_to_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    seaweedfs_module.binary.cache_clear()
    with pytest.raises(StackError, match=r"^SeaweedFS is missing; type: make install$"):
        SeaweedFS(tmp_path, free_ports(PORTS), "secret").prepare()


def test_what_killed_servers_leave_is_removed_and_what_living_ones_have_is_not(tmp_path: Path) -> None:
    living, dead = (Path(f"/tmp/seaweedfs-test-{uuid4()}.sock") for _ in range(2))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(living))
        server.listen()
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(dead))
        SeaweedFS(tmp_path, free_ports(PORTS), "secret").prepare()
        assert (living.exists(), dead.exists()) == (True, False)
    living.unlink()


def test_servers_die_with_the_process_that_started_them(tmp_path: Path) -> None:
    server = Valkey(tmp_path, free_port())
    server.prepare()
    # The shell's death by SIGKILL, which it cannot answer, must end the server that it started.
    with subprocess.Popen(
        ["sh", "-c", '"$@" & wait', "sh", *server.command], stdout=subprocess.PIPE
    ) as starter:
        while not server.ready():
            time.sleep(POLL_SECONDS)
        starter.kill()
        assert starter.stdout is not None
        # The pipe ends with its last holder, which is the server.
        starter.stdout.read()
    assert not server.ready()


def test_socket_paths_are_short_enough_and_stay_the_same(tmp_path: Path) -> None:
    assert socket_path(tmp_path, "clamd.sock") == tmp_path / "clamd.sock"
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    path = socket_path(deep, "clamd.sock")
    try:
        assert len(os.fsencode(path)) <= 107
        assert path == socket_path(deep, "clamd.sock")
        assert path != socket_path(deep / "x", "clamd.sock")
        assert path.parent.stat().st_mode & 0o777 == 0o700
        path.parent.chmod(0o777)
        with pytest.raises(StackError, match="not only yours"):
            socket_path(deep, "clamd.sock")
    finally:
        path.parent.rmdir()
        socket_path(deep / "x", "s").parent.rmdir()


def test_clamd_runs_in_a_deep_directory(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    own = signatures.choose(deep / "signatures", own_only=True)
    server = ClamdServer(Clamd(deep, own, 2**20))
    server.start()
    try:
        assert scan(server, EICAR).endswith("FOUND")
    finally:
        server.stop()
        directory = server.server.socket.parent
        assert directory.name.startswith("roomkeeper-")
        directory.rmdir()


def test_a_cluster_is_in_utc_wherever_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    Postgres(tmp_path, free_port(), durable=False).prepare()
    configuration = (tmp_path / "data" / "postgresql.conf").read_text()
    assert re.findall(r"(?m)^timezone = (.*)$", configuration) in (["Etc/UTC"], ["UTC"], ["'UTC'"])
