"""Whatever the bytes are: drawn or refused, and never a fault. `tests/fuzz/draw.py` looks for longer."""

from pathlib import Path
from random import Random

import pytest

from tests.fuzz import draw
from tests.fuzz.mutations import mutated

SEEDS = draw.seeds()


@pytest.mark.parametrize("seed", range(8))
def test_changed_files_are_drawn_or_refused(seed: int, tmp_path: Path) -> None:
    random = Random(seed)
    for _ in range(10):
        content = mutated(random, random.choice(SEEDS), SEEDS)
        assert not [why for why in draw.faults(content, tmp_path) if why], f"seed {seed}"
