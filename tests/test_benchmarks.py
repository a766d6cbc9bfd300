"""Every benchmark works: at a tiny size, where both sides must compute the same; its numbers mean nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import names
from benchmarks.__main__ import main
from benchmarks._harness import AIMS_FILE, Aim, read_aims

ROOT = Path(__file__).parent.parent


@pytest.mark.system
@pytest.mark.parametrize("name", names())
def test_a_benchmark_works(name: str, tmp_path: Path) -> None:
    aims = tmp_path / "aims"
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}"],
        cwd=ROOT,
        env=os.environ | {"BENCHMARK_SIZE": "tiny", AIMS_FILE: str(aims)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert line.startswith(f"{name}: ")
    found = read_aims(aims)
    assert found
    assert len({aim.name for aim in found}) == len(found)


def test_every_module_is_a_benchmark() -> None:
    programs = (ROOT / "benchmarks").rglob("*.py")
    assert set(names()) == {
        file.parent.name if file.stem == "__main__" else file.stem
        for file in programs
        if "harness.run(" in file.read_text()
    }


@pytest.mark.parametrize(
    ("measured", "at_most", "holds"),
    [(1.0, False, True), (0.9, False, False), (1.0, True, True), (1.1, True, False), (None, False, None)],
)
def test_an_aim_holds_on_its_side_of_the_limit(
    measured: float | None, at_most: bool, holds: bool | None
) -> None:
    assert Aim("x", measured, 1.0, at_most).holds is holds


def test_an_unknown_benchmark_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["swep"]) == 2
    assert capsys.readouterr().err == f"swep: no such benchmark; there are {', '.join(names())}.\n"


def test_the_table_tells_aims_and_what_did_not_run(capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks import __main__ as runner

    aims = [Aim("times naive", 1.5, 1.0), Aim("ms", 7, 5, at_most=True), Aim("times vips", None, 1.0)]
    runner.show({"sweep": aims, "rollup": None})
    shown = [
        [cell.strip() for cell in line.split("│")[1:-1]] for line in capsys.readouterr().out.splitlines()
    ]
    assert [row for row in shown if row] == [
        ["sweep: times naive", "1.5", "≥ 1", "yes"],
        ["sweep: ms", "7", "≤ 5", "no"],
        ["sweep: times vips", "–", "≥ 1", "–"],
        ["rollup", "did not run", "", ""],
    ]
