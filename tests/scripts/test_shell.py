"""The shell that tests are started from may have the settings of `make run`: they are not the tests'."""

import os
import subprocess
import sys

import pytest


def test_no_settings_are_inherited() -> None:
    assert [name for name in os.environ if name.startswith("ROOMKEEPER_") or name == "DATABASE_URL"] == []


@pytest.mark.system
def test_settings_of_the_shell_are_left_out() -> None:
    settings = {"ROOMKEEPER_APPS": "pern", "DATABASE_URL": "postgresql://127.0.0.1/chat"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", f"{__file__}::test_no_settings_are_inherited"],
        env=os.environ | settings,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
