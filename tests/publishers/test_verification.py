"""Whatever is damaged is found, named, and no exception."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from shop import Shop

from penstock.pipeline.catalog import keys
from penstock.pipeline.core.documents import DigestVector, encode
from penstock.pipeline.core.errors import NotFound
from penstock.pipeline.core.ids import Position
from penstock.pipeline.ports.store import Overwrite
from penstock.publishers.compaction import compact
from penstock.publishers.delta import publish_delta
from penstock.publishers.verification import verify


@pytest.fixture
def shop():
    found = Shop()
    found.published()
    found.dense = {"top": 2.0}
    found.train("item", {1: 20.0}, deletes=(3,))
    publish_delta(found.env, found.source(), sidecar=found.mark())
    yield found
    found.close()


def test_a_whole_version_has_no_findings(shop):
    found = verify(shop.env)
    first, second = shop.env.catalog.manifest(1), shop.env.catalog.manifest(2)
    assert (found.version, found.ok, found.findings) == (2, True, ())
    assert found.read_bytes == sum(m.bytes for m in (first, second))
    assert verify(shop.env, 1).digest == first.digest(8)[1]
    assert verify(shop.env, 0).ok
    with pytest.raises(NotFound, match="version 9"):
        verify(shop.env, 9)


def damaged(shop, version):
    """The one object that is damaged, found in what `version` needs."""
    found = verify(shop.env, version)
    assert (found.ok, found.digest) == (False, None)
    return found.findings


@pytest.mark.parametrize("version", [1, 2])
def test_invariant_12_every_byte_of_every_slice_counts(shop, version):
    manifest = shop.env.catalog.manifest(version)
    for path in sorted(manifest.data_paths()):
        data = shop.store.get(path).data
        for at in (*range(0, len(data), max(1, len(data) // 40)), len(data) - 1):
            broken = bytearray(data)
            broken[at] ^= 0x10
            shop.store.put(path, bytes(broken), Overwrite())
            (finding,) = damaged(shop, 2)
            assert (finding.object, path in finding.rule or "digest" in finding.rule) == (path, True), (path, at)
        for broken in (data[:-1], data + b"\0", data[: len(data) // 2], b""):
            shop.store.put(path, broken, Overwrite())
            assert [finding.object for finding in damaged(shop, 2)] == [path]
        shop.store.delete(path)
        (finding,) = damaged(shop, 2)
        assert (finding.object, "no such object" in finding.rule) == (path, True)
        shop.store.put(path, data, Overwrite())
    assert verify(shop.env, 2).ok


def test_two_damages_are_two_findings(shop):
    paths = [info.path for info in shop.env.catalog.manifest(2).changes["item"].runs]
    for path in paths:
        shop.store.put(path, shop.store.get(path).data[:-1], Overwrite())
    assert [finding.object for finding in damaged(shop, 2)] == paths


def changed(shop, version, **fields):
    manifest = msgspec.structs.replace(shop.env.catalog.manifest(version), **fields)
    shop.store.put(keys.manifest("retail", version), encode(manifest), Overwrite())


def test_invariant_9_digests_that_are_stated_are_held_against_what_is_there(shop):
    second = shop.env.catalog.manifest(2)
    interval = second.changes["item"].interval.array(8)
    interval[5] += np.uint64(1)
    change = msgspec.structs.replace(second.changes["item"], interval=DigestVector.of(interval))
    changed(shop, 2, changes={**second.changes, "item": change})
    (finding,) = damaged(shop, 2)
    assert (finding.object, "of 1 buckets differ from those stated, first in bucket 5" in finding.rule) == (
        "version 2, table item",
        True,
    )
    state = {name: DigestVector.of(np.ones(8, np.uint64)) for name in ("item", "user")}
    changed(shop, 2, changes=second.changes, digests=state)
    found = verify(shop.env, 2)
    assert [finding.object for finding in found.findings] == ["version 2, table item", "version 2, table user"]
    assert not found.ok


def test_positions_of_another_log_and_going_back(shop):
    second = shop.env.catalog.manifest(2)
    changed(shop, 2, positions=second.positions._replace(log="another"))
    (finding,) = damaged(shop, 2)
    assert "in log another, the model has 2 in log-1" in finding.rule
    back = tuple(Position(0, {}) for _ in range(2))
    changed(shop, 2, positions=second.positions._replace(partitions=back))
    assert ["lies before" in finding.rule for finding in damaged(shop, 2)] == [True, True]


def test_a_manifest_that_is_gone_or_malformed_is_a_finding(shop):
    data = shop.store.get(keys.manifest("retail", 1)).data
    shop.store.put(keys.manifest("retail", 1), data.replace(b'"kind":"snapshot"', b'"kind":"snapsh0t"'), Overwrite())
    (finding,) = damaged(shop, 2)
    assert "not a Manifest document" in finding.rule
    shop.store.delete(keys.manifest("retail", 1))
    (finding,) = damaged(shop, 2)
    assert "has no version 1" in finding.rule
    (finding,) = damaged(shop, 1)
    assert finding.object == "version 1"


def test_invariant_3_a_chain_that_is_broken_is_a_finding(shop):
    second = shop.env.catalog.manifest(2)
    changed(shop, 2, previous=0)
    (finding,) = damaged(shop, 2)
    assert finding.rule == "version 2 is a difference to 1, which is not retained"
    changed(shop, 2, previous=1, base=2)
    (finding,) = damaged(shop, 2)
    assert finding.rule == "version 2 names 2 as its base, which is not older"
    shop.store.put(keys.manifest("retail", 2), encode(second), Overwrite())
    assert verify(shop.env).ok


def test_a_base_beside_the_chain_and_the_delta_that_it_stands_beside(shop):
    base = compact(shop.env)
    path = base.full["item"].runs[0].path
    data = shop.store.get(path).data
    shop.store.put(path, data[:-1], Overwrite())
    assert [finding.object for finding in damaged(shop, 2)] == [path]
    assert [finding.object for finding in damaged(shop, base.version)] == [path]
    assert verify(shop.env, 1).ok
    shop.store.put(path, data, Overwrite())
    delta = shop.env.catalog.manifest(2).changes["item"].runs[0].path
    shop.store.delete(delta)
    assert [finding.object for finding in damaged(shop, 2)] == [delta]
    assert verify(shop.env, base.version).ok


def test_the_undo_of_a_rollback_is_read_too(shop):
    from penstock.rollback.execution import execute
    from penstock.rollback.planning import plan_rollback
    from penstock.rollback.target import before_event

    shop.train("item", {1: 99.0})
    shop.updates.flush()
    found = execute(shop.env, plan_rollback(shop.env, before_event(shop.through)), why="poison")
    assert verify(shop.env).ok
    path = found.rollback.undo["item"].runs[0].path
    shop.store.delete(path)
    assert [finding.object for finding in damaged(shop, found.version)] == [path]
