"""Whatever a fuzzer has found, once and for all: `found/TARGET` holds the inputs."""

from pathlib import Path

import pytest
from fuzz.guard import judge
from fuzz.targets import BY_NAME, TARGETS, warm_up

FOUND = sorted((Path(__file__).parent / "found").glob("*/*.bin"))


@pytest.fixture(scope="module")
def _warm(tmp_path_factory):
    warm_up(TARGETS[0], tmp_path_factory.mktemp("warm"))


@pytest.mark.usefixtures("_warm")
@pytest.mark.parametrize("path", FOUND, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_what_was_found_is_no_finding_any_more(tmp_path, path):
    finding = judge(BY_NAME[path.parent.name].run, path.read_bytes(), tmp_path)
    assert finding is None, finding.report


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_seeds_are_read_to_their_end(tmp_path, target):
    """A seed that is refused at the door leads a fuzzer nowhere."""
    for seed in target.seeds():
        assert len(seed) <= target.most_bytes
        target.run(seed, tmp_path)
