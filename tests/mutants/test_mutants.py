"""The list of mutants fits the code: each can be put in, and its tests exist. `make mutants` runs them."""

from pathlib import Path

import pytest

from tests.mutants.listing import Mutant, MutantError, load, missing_tests

ROOT = Path(__file__).parents[2]
MUTANTS = load()


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda one: one.name)
def test_a_mutant_fits_the_code(mutant: Mutant) -> None:
    assert mutant.applied((ROOT / mutant.file).read_text("utf-8"))
    assert mutant.tests, "no test is to notice it"
    assert not missing_tests(ROOT, mutant)
    assert len(mutant.rule.split()) > 3, "say which rule it breaks"


def test_each_has_a_name_of_its_own() -> None:
    assert len({one.name for one in MUTANTS}) == len(MUTANTS)


def mutant(old: str, new: str) -> Mutant:
    return Mutant("one", "a rule of some words", "some.py", old, new, ())


@pytest.mark.parametrize(
    "source",
    ["f(a, b=1)\n", "f(\n    a,\n    b=1,\n)\n", "f(a,b = 1)\n", "x = [f(a, b=1)]\n"],
)
def test_formatting_makes_no_difference(source: str) -> None:
    assert "f(a, b=2)" in mutant("f(a, b=1)", "f(a, b=2)").applied(source)
    assert "f(a, b=2)" in mutant("f(\n  a,\n  b=1,\n)", "f(a, b=2)").applied(source)


@pytest.mark.parametrize(
    ("source", "old", "new", "says"),
    [
        ("a = 1\n", "b = 1", "b = 2", "0 times"),
        ("a = 1\nb = 1\na = 1\n", "a = 1", "a = 2", "2 times"),
        ("aa = 1\n", "a = 1", "a = 2", "0 times"),
        ("a = 1\n", "a = 1", "a = (", "does not compile"),
        ("a = 1\n", "a = 1", "a=1", "changes nothing"),
    ],
)
def test_what_does_not_fit_is_told(source: str, old: str, new: str, says: str) -> None:
    with pytest.raises(MutantError, match=says):
        mutant(old, new).applied(source)


@pytest.mark.parametrize(
    ("test", "found"),
    [
        ("tests/mutants/test_mutants.py", True),
        ("tests/mutants/test_mutants.py::test_formatting_makes_no_difference", True),
        ("tests/mutants/test_mutants.py::test_formatting_makes_no_difference[x]", True),
        ("tests/mutants/test_mutants.py::test_nothing", False),
        ("tests/mutants/test_nowhere.py", False),
    ],
)
def test_a_test_is_found_by_its_file_and_name(test: str, found: bool) -> None:
    one = Mutant("one", "a rule of some words", "some.py", "", "", (test,))
    assert missing_tests(ROOT, one) == ([] if found else [test])
