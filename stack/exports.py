"""A stack's settings as a file for shells: a shell that sources it has the settings of its programs."""

import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from workers.settings import Settings, variable


def write(path: Path, environment: Mapping[str, str]) -> None:
    """Write an `export` line for each setting of `environment`; only we may read it, for it has passwords."""
    names = (variable(field) for field in Settings.model_fields)
    lines = [f"export {name}={shlex.quote(environment[name])}\n" for name in names if name in environment]
    fresh = path.with_name(f"{path.name}.new")
    # Of an earlier start, perhaps, and then with any mode.
    fresh.unlink(missing_ok=True)
    fresh.touch(mode=0o600)
    fresh.write_text("".join(lines), encoding="utf-8", errors="surrogateescape")
    fresh.replace(path)


def example(path: Path) -> str:
    """Return what to type, from here, to have a command look at the stack whose file is `path`."""
    command = Path(sys.executable).with_name("roomkeeper")
    return f". {_from_here(path)}; {_from_here(command)} check"


def _from_here(path: Path) -> str:
    relative = os.path.relpath(path)
    # Without a slash a shell would look for it along its PATH.
    shown = str(path) if relative.startswith("..") or "/" not in relative else relative
    return shlex.quote(shown)
