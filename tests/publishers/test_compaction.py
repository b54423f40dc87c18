"""A compacted chain has the digests of the chain, whatever was in it, and moves no ref."""

from __future__ import annotations

import pytest
from shop import Shop, refused, rows_of, survives_every_failure

from penstock.pipeline.core.errors import ChainBroken, NotFound, Refused
from penstock.pipeline.ports.store import Overwrite
from penstock.publishers import compaction
from penstock.publishers.compaction import chain_length, compact
from penstock.publishers.delta import publish_delta
from penstock.publishers.verification import verify
from penstock.slicer.layers import Layers


@pytest.fixture
def shop():
    found = Shop()
    found.published()
    for number in range(3):
        found.train("item", {number: 20.0 + number, 100 + number: 1.0}, deletes=(number + 3,))
        publish_delta(found.env, found.source(), sidecar=found.mark())
    yield found
    found.close()


@pytest.mark.parametrize("budget", [None, 200])
def test_invariant_9_the_merged_chain_stands_beside_it_with_its_digests(shop, monkeypatch, budget):
    if budget is not None:
        real = Layers.merged
        monkeypatch.setattr(Layers, "merged", lambda self, *given, **options: real(self, *given, budget=budget))
    before, refs = verify(shop.env), shop.env.catalog.refs()
    chain = shop.env.catalog.history().chain(4)
    assert chain_length(shop.env) == 4
    found = compact(shop.env, why="long")
    assert (found.kind, found.state, found.base, found.source) == ("compaction", chain[-1].state, None, "whole")
    assert chain_length(shop.env) == 1
    assert rows_of(shop.env, found) == rows_of(shop.env, chain[-1], chain=chain) == shop.tables
    after = shop.env.catalog.refs()
    assert (after.refs, after.trunk, after.bases) == (refs.refs, refs.trunk, (found.version,))
    assert verify(shop.env).digest == verify(shop.env, found.version).digest == before.digest == found.digest(8)[1]
    assert compact(shop.env) == compact(shop.env, found.version) == found
    assert len(found.full["item"].runs) > (1 if budget else 0)


def test_an_older_version_can_be_compacted_and_shortens_every_chain_over_it(shop):
    found = compact(shop.env, 3)
    assert chain_length(shop.env, 3) == 1
    assert chain_length(shop.env) == 2
    assert rows_of(shop.env, shop.env.catalog.history().newest) == shop.tables
    assert compact(shop.env, 3) == found


def test_what_is_whole_already_is_returned(shop):
    assert compact(shop.env, 1).version == 1
    assert compact(shop.env, 0).kind == "birth"
    with pytest.raises(NotFound, match="version 77"):
        compact(shop.env, 77)


def test_a_chain_that_is_not_what_it_states_is_not_made_a_base(shop, monkeypatch):
    real = compaction._merged

    def wrong(*arguments):
        found = real(*arguments)
        found.digests[3] += 1
        return found

    monkeypatch.setattr(compaction, "_merged", wrong)
    refused(shop.env, ChainBroken, "table item: not the state that version 4 has", lambda: compact(shop.env))


def test_a_damaged_chain_is_refused(shop):
    path = shop.env.catalog.manifest(2).changes["item"].runs[0].path
    shop.store.put(path, shop.store.get(path).data[:-8], Overwrite())
    refused(shop.env, Refused, path, lambda: compact(shop.env))


def test_invariant_2_every_failure_leaves_the_live_ref_whole():
    shop = Shop({"item": {1: 1.0, 2: 2.0}})
    shop.published()
    shop.train("item", {1: 9.0}, deletes=(2,))
    publish_delta(shop.env, shop.source(), sidecar=shop.mark())
    shop.close()

    def check(env, found):
        assert rows_of(env, found) == shop.tables
        assert list(env.catalog.history().bases.values()) == [found]

    survives_every_failure(shop, compact, check)
