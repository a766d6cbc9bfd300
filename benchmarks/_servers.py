"""The servers that a whole platform needs, for benchmarks: the tests' own."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import MappingProxyType

from stack.ports import free_port
from stack.programs import set_up
from stack.servers import signatures
from stack.servers.clamd import Clamd
from stack.servers.postgres import Postgres
from stack.servers.valkey import Valkey
from tests.servers import ClamdServer, PostgresServer, ValkeyServer
from workers.settings import Settings, load


@contextmanager
def running(
    *, malware: Mapping[str, bytes] = MappingProxyType({}), **variables: str
) -> Iterator[tuple[Path, dict[str, str]]]:
    """Start them, with all tables; yield a folder and the environment of the platform's programs there.

    Args:
        malware: what the scanner knows beside the two test signatures: name, as it reports it → bytes.
        variables: settings beyond the addresses.
    """
    folder = Path(tempfile.mkdtemp(prefix="roomkeeper-benchmark-"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        postgres = PostgresServer(Postgres(folder / "postgres", free_port(), durable=False))
        valkey = ValkeyServer(Valkey(folder / "valkey", free_port()))
        own = signatures.choose(folder / "signatures", own_only=True)
        if malware:
            signatures.write(own.directory, {**signatures.TESTS, **malware})
        clamd = ClamdServer(Clamd(folder / "clamd", own, Settings.model_fields["max_file_bytes"].default))
        for server in (postgres, valkey, clamd):
            stack.callback(server.stop)
            server.start()
        values = {
            "DATABASE_URL": postgres.url(),
            "ROOMKEEPER_BROKER_URL": valkey.url(),
            "ROOMKEEPER_CLAMD": clamd.address,
            "ROOMKEEPER_STORAGE_ROOT": str(folder / "storage"),
            "ROOMKEEPER_QUARANTINE_ROOT": str(folder / "quarantine"),
            **variables,
        }
        (folder / "storage").mkdir()
        set_up(load(values))
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("ROOMKEEPER_")}
        yield folder, inherited | values
