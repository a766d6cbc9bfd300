"""What `make test-fast` and `make test-deep` choose."""

from pathlib import Path

from tests import deep, fast


def test_tests_come_in_the_order_of_how_directly_they_import_what_was_changed() -> None:
    modules = {
        "tasks.a": Path("tasks/a.py"),
        "tasks.b": Path("tasks/b.py"),
        "tests.helper": Path("tests/helper.py"),
        "tests.test_a": Path("tests/test_a.py"),
        "tests.test_b": Path("tests/test_b.py"),
        "tests.test_other": Path("tests/test_other.py"),
    }
    imported = {
        "tasks.b": {"tasks.a"},
        "tests.test_a": {"tasks.a"},
        "tests.test_b": {"tasks.b", "tests.helper"},
    }
    a, b, other = (modules[f"tests.test_{name}"] for name in ("a", "b", "other"))
    assert fast.nearest([modules["tasks.a"]], modules, imported) == [a, b]
    assert fast.nearest([modules["tests.helper"]], modules, imported) == [b]
    assert fast.nearest([other], modules, imported) == [other]
    assert fast.nearest([Path("README.md")], modules, imported) == []


def test_imports_are_found_wherever_they_stand() -> None:
    modules = {fast.module_of(path): path for path in fast.sources(fast.ROOT)}
    assert {"tasks.apps", "workers.db", "tests.platform"} <= modules.keys()
    # The last one within a function.
    found = fast.imports(modules["tests.platform"], modules)
    assert {"tests.servers", "workers.settings"} <= found


def test_every_file_with_property_tests_is_run_deeply() -> None:
    found = deep.files()
    assert "tests/delivery/test_merge.py" in found
    assert "tests/scripts/test_tiers.py" not in found
    command = deep.command("tests/delivery/test_merge.py", seed=7, minutes=1)
    assert {"--hypothesis-profile=deep", "--hypothesis-seed=7"} <= set(command)
    assert deep.command(deep.FUZZERS[0], seed=7, minutes=1)[-4:] == ["--minutes", "1", "--seed", "7"]
