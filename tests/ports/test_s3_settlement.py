"""The verdict over a lost reply, against every history of one key that a few writers can make."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.pipeline.ports.s3_settlement import Sighting, Stamped, Verdict, token_of
from penstock.pipeline.ports.store import Create, Overwrite, Swap

MOVES = st.sampled_from(["ours", "swap", "overwrite", "foreign"])


@dataclass
class Key:
    """One key of a server that counts its contents in its ETags."""

    count: int = 0
    etag: str = ""
    stamp: str = ""
    after: str = ""

    def put(self, put, etag):
        if isinstance(put.condition, Create) and self.etag:
            return False
        if isinstance(put.condition, Swap) and put.condition.token.split(" ")[0] != self.etag:
            return False
        self.etag, self.stamp, self.after = etag, put.stamp, put.after
        return True


@given(st.booleans(), st.booleans(), st.lists(MOVES, max_size=5))
def test_a_verdict_is_never_wrong(exists, stamped, moves):
    key, landed, contents = Key(), False, iter(range(100))
    if exists:
        key.put(Stamped.drawn(Overwrite()), f'"{next(contents)}"')
        key.stamp = key.stamp if stamped else ""
    ours = Stamped.drawn(Swap(token_of(key.etag, key.stamp)) if exists else Create())
    for move in moves:
        etag = f'"{next(contents)}"'
        match move:
            case "ours":
                landed = key.put(ours, etag) or landed
            case "swap":
                key.put(Stamped.drawn(Swap(token_of(key.etag, key.stamp)) if key.etag else Create()), etag)
            case "overwrite":
                key.put(Stamped.drawn(Overwrite()), etag)
            case "foreign":
                key.etag, key.stamp, key.after = etag, "", ""
    seen = Sighting(key.etag, key.stamp, key.after, same_bytes=False) if key.etag else None
    match ours.verdict(seen):
        case Verdict.LANDED:
            assert landed
            assert key.stamp == ours.stamp
        case Verdict.REPLACED:
            assert landed
            assert key.stamp != ours.stamp
        case Verdict.LOST:
            assert not landed
            assert not key.put(ours, '"again"')
        case Verdict.OPEN:
            assert not landed
            assert key.put(ours, '"again"')
        case Verdict.UNKNOWN:
            assert moves
    if moves == ["ours"]:
        assert ours.verdict(seen) is Verdict.LANDED


@pytest.mark.parametrize("same", [True, False])
def test_a_server_that_keeps_no_metadata_is_judged_by_the_bytes(same):
    seen = Sighting('"new"', "", "", same_bytes=same)
    for condition in (Create(), Swap(token_of('"old"', ""))):
        assert Stamped.drawn(condition).verdict(seen) is (Verdict.LANDED if same else Verdict.UNKNOWN)
