"""A short run of every target: it starts, it goes past the door, and it finds nothing. `make fuzz` runs for longer."""

import importlib.util

import pytest
from fuzz.run import fuzz
from fuzz.targets import TARGETS

SECONDS = 2
needs_atheris = pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None,
    reason="atheris is not installed: there is no wheel for every platform",
)


@pytest.mark.slow
@needs_atheris
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_a_short_run_finds_nothing(tmp_path, target):
    outcome = fuzz(target.name, SECONDS, found=tmp_path / "found", corpus=tmp_path / "corpus")
    assert not outcome.broken, outcome.broken
    assert not outcome.findings, "\n".join(outcome.findings)
    assert outcome.executions > len(target.seeds())
