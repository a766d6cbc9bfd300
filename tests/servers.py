"""Real servers for tests: started, stopped, killed and started again in place."""

import json
import signal
import subprocess
import time
from contextlib import closing
from functools import cached_property
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar
from urllib.parse import quote

from boto3.session import Session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from redis import Redis

from stack.processes import POLL_SECONDS, last_lines
from stack.servers.clamd import Clamd
from stack.servers.postgres import Postgres
from stack.servers.seaweedfs import SeaweedFS
from stack.servers.server import Server
from stack.servers.valkey import Valkey

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

S = TypeVar("S", bound=Server)

#: How long a server may take to be ready, recovery after a kill included.
PATIENCE_SECONDS = 120.0


class RunningServer(Generic[S]):
    """One server as a plain child process. Dies with the test run, however that ends."""

    def __init__(self, server: S) -> None:
        self.server = server
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        return self.server.directory / "log"

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self.server.name} does not run"
        return self._process.pid

    def start(self) -> None:
        """Start it and wait until it serves; if it runs already it is only thawed."""
        if self._process is not None and self._process.poll() is None:
            self.thaw()
            return
        self.server.prepare()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.server.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C is for pytest, which then ends its servers in order.
                start_new_session=True,
            )
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self.server.ready():
            ended = self._process.poll() is not None
            if ended or time.monotonic() > deadline:
                self.kill()
                output = last_lines(self.log.read_text(errors="replace"))
                raise RuntimeError(f"{self.server.name} did not start:\n{output}")
            time.sleep(POLL_SECONDS)

    def stop(self) -> None:
        """End it in good order and wait; nothing if it does not run."""
        self._end(self.server.stop_signal)

    def kill(self) -> None:
        """SIGKILL it and wait; nothing if it does not run."""
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """SIGSTOP it: it keeps its connections and answers nothing."""
        self._send(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT it after `freeze`."""
        self._send(signal.SIGCONT)

    def _send(self, number: signal.Signals) -> None:
        assert self._process is not None, f"{self.server.name} does not run"
        self._process.send_signal(number)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        process.send_signal(signal.SIGCONT)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class PostgresServer(RunningServer[Postgres]):
    """PostgreSQL, with fsync off."""

    def url(self, database: str = "postgres") -> str:
        """Return the URL of `database`, `postgresql://roomkeeper@127.0.0.1:PORT/NAME`."""
        return self.server.url(database)


class ValkeyServer(RunningServer[Valkey]):
    """Valkey, with its append-only file: data survives `kill` and `start`, but for the last second's."""

    def url(self, database: int = 0) -> str:
        """Return the URL of the numbered database."""
        return self.server.url(database)

    def flush(self) -> None:
        """Empty all its databases."""
        with Redis.from_url(self.url()) as client:
            client.flushall()


class ClamdServer(RunningServer[Clamd]):
    """clamd, which knows EICAR and `stack.servers.signatures.TEST_MALWARE` and nothing else."""

    @property
    def address(self) -> str:
        """As `Settings.clamd` wants it, `unix:/path`."""
        return self.server.address


class SeaweedFSServer(RunningServer[SeaweedFS]):
    """SeaweedFS: its data survives `kill` and `start`."""

    def create_bucket(self, name: str) -> None:
        """Create a bucket that can be written to, also right after a `kill` and a `start`.

        For a quarter of a minute it finds no place for a new one, which is what tests would wait for.
        """
        self.client.create_bucket(Bucket=name)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self._stores(name):
            assert time.monotonic() < deadline, f"SeaweedFS stores nothing; see {self.log}"
        self.empty_bucket(name)

    def empty_bucket(self, name: str) -> None:
        """Remove all that is in a bucket, what is half uploaded too; its place on the disk stays."""
        path = f"/buckets/{name}/"
        while entries := json.loads(self._filer("GET", path) or "{}").get("Entries"):
            for entry in entries:
                self._filer("DELETE", f"{quote(entry['FullPath'])}?recursive=true")

    def _filer(self, method: str, path: str) -> bytes:
        with closing(HTTPConnection("127.0.0.1", self.server.ports["filer"], timeout=20)) as client:
            client.request(method, path, headers={"Accept": "application/json"})
            answer = client.getresponse()
            content = answer.read()
        assert answer.status < 300, content
        return content

    def _stores(self, bucket: str) -> bool:
        try:
            self.client.put_object(Bucket=bucket, Key="key", Body=b"content")
        except (BotoCoreError, ClientError):
            return False
        return True

    def settings(self, endpoint: str | None = None) -> dict[str, str]:
        """Return the variables that name it, or a proxy in front of it at `endpoint`; without a bucket."""
        return {
            "ROOMKEEPER_S3_ENDPOINT": endpoint or self.server.address,
            "ROOMKEEPER_S3_REGION": "us-east-1",
            "ROOMKEEPER_S3_ACCESS_KEY": self.server.access_key,
            "ROOMKEEPER_S3_SECRET_KEY": self.server.secret_key,
        }

    @cached_property
    def client(self) -> "S3Client":
        """A client as an API service has one, without any of our own rules."""
        session = Session(self.server.access_key, self.server.secret_key, region_name="us-east-1")
        # Without the checksums that older clients do not know.
        config = Config(signature_version="s3v4", request_checksum_calculation="when_required")
        return session.client("s3", endpoint_url=self.server.address, config=config)
