"""ARCHITECTURE.md and the docstring of the errors say what is there."""

import inspect
import re
import tomllib
from pathlib import Path

import pytest

from penstock.pipeline.core import errors

ROOT = Path(__file__).parents[2]
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text()
INVARIANTS = re.search(r"## Invariants\n(.*?)\n## ", ARCHITECTURE, re.DOTALL)[1]
FOLDERS = "pipeline|slicer|publishers|rollback|serving|examples|dags|tests|docs|bench|monitoring|deploy"
NUMBERS = [int(number) for number in re.findall(r"^(\d+)\. ", INVARIANTS, re.MULTILINE)]


def test_the_invariants_are_numbered():
    assert list(range(1, len(NUMBERS) + 1)) == NUMBERS
    assert len(NUMBERS) >= 14


@pytest.mark.parametrize("number", NUMBERS)
def test_every_invariant_has_tests_that_carry_its_number(number):
    named = re.compile(rf"def test_invariant_{number}_|\"\"\"Invariants? ([\d, and]*\b)?{number}\b")
    tests = [path for path in (ROOT / "tests").rglob("test_*.py") if named.search(path.read_text())]
    assert tests, f"invariant {number} is claimed, and no test carries its number"


def test_the_tree_of_errors_is_the_one_that_is_drawn():
    """Name, parent and exit code of every class, as the docstring draws them."""
    drawn, stack = {}, []
    for line in errors.__doc__.splitlines():
        found = re.match(r"^    ([│ ]*)(?:[├└]── )?(\w+) +(\d)?", line)
        if not found or not hasattr(errors, found[2]):
            continue
        indent = line.index(found[2])
        stack = [(at, name) for at, name in stack if at < indent]
        code = int(found[3]) if found[3] else drawn[stack[-1][1]][1]
        drawn[found[2]] = (stack[-1][1] if stack else "Exception", code)
        stack.append((indent, found[2]))
    classes = inspect.getmembers(errors, lambda kind: inspect.isclass(kind) and issubclass(kind, errors.PenstockError))
    assert drawn == {name: (kind.__base__.__name__, kind.exit_code) for name, kind in classes}


DOCS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md"))
PAGES = ["README.md", "ARCHITECTURE.md", *DOCS, "examples/retail/README.md"]


@pytest.mark.parametrize("page", PAGES)
def test_every_path_that_is_mentioned_exists(page):
    text = (ROOT / page).read_text()
    mentioned = {
        path
        for path in re.findall(
            r"`((?:pipeline|slicer|publishers|rollback|serving|examples|dags|tests|docs|bench)/[^`\s*…<>]*)`", text
        )
        if "/" in path
    }
    for path in mentioned:
        for one in expanded(path):
            assert (ROOT / one).exists(), f"{page} mentions {path}"


def expanded(path):
    """`a/{b,c}.py` is two paths."""
    found = re.match(r"(.*)\{(.*)\}(.*)", path)
    return [found[1] + name + found[3] for name in found[2].split(",")] if found else [path]


def test_the_code_map_names_every_package():
    table = re.search(r"## Code map\n(.*?)\n## ", ARCHITECTURE, re.DOTALL)[1]
    shipped = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    for folder in sorted({name.split(".")[1] for name in shipped}):
        assert f"`{folder}" in table, f"{folder} is not in the code map"


def test_what_the_code_map_says_of_core_is_there():
    for name in re.findall(r"`(\w+\.py)`", ARCHITECTURE):
        assert list(ROOT.glob(f"*/**/{name}")), f"ARCHITECTURE.md mentions {name}"


def test_every_decision_is_a_record():
    for path in sorted((ROOT / "docs/decisions").glob("*.md")):
        text = path.read_text()
        assert re.match(r"# \d\d\. ", text), path.name
        for part in ("Context", "Decision", "Alternatives"):
            assert f"\n## {part}\n" in text, f"{path.name} has no {part}"
