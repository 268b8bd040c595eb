"""The plugin is loaded in every pytest run of a user's environment: it must cost next to nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("litellm", "torch", "transformers", "trl", "peft", "datasets", "sqlalchemy", "pydantic", "rich", "sklearn")

SUITE = """
from harness import module, suite

@module
def ask(x: int) -> int: ...

@suite(program=ask, data={})
def test_ask(example, prediction):
    assert prediction == example.x
"""


def imported(code: str, cwd: str) -> set[str]:
    """The heavy packages that are loaded after ``code``."""
    script = f"import sys\n{code}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=cwd)
    return set(done.stdout.split("\n")[-2].split()) & set(HEAVY)


def test_importing_the_plugin_imports_nothing_heavy(pytester: pytest.Pytester) -> None:
    assert imported("import harness.plugin, harness", str(pytester.path)) == set()


def test_a_run_without_suites_imports_nothing_heavy(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_one(): pass")
    code = "import pytest; pytest.main(['-q', '-p', 'harness.plugin', '-p', 'no:bt', '-p', 'no:hypothesispytest'])"
    assert imported(code, str(pytester.path)) == set()


def test_collecting_suites_imports_no_lm_library(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(SUITE)
    for options in ("'--collect-only'", "'--collect-only', '--bt-optimize'"):
        found = imported(f"import pytest; pytest.main(['-q', {options}])", str(pytester.path))
        assert found <= {"pydantic", "rich", "hypothesis"}


def test_public_names_are_there_and_no_others() -> None:
    import harness

    assert {name: callable(getattr(harness, name)) for name in harness.__all__} == dict.fromkeys(harness.__all__, True)
    assert dir(harness) == sorted(harness.__all__)
    with pytest.raises(AttributeError, match="no attribute 'sweet'"):
        _ = harness.sweet
