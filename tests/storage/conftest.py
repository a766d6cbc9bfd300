"""A file to store, and where to fetch one to."""

from pathlib import Path

import pytest


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(b"content")
    return path


@pytest.fixture
def into(tmp_path: Path) -> Path:
    return tmp_path / "into"
