"""What a node is made of: hot keys, near caches, counts, frequencies, transforms."""

import importlib.metadata

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nodes import SLOW, hot, rows_of, steps
from served import published, step
from waiting import reached

from penstock.examples.retail.features import transform
from penstock.examples.retail.stream import HOUR_US, PurchaseStream, read_purchases
from penstock.pipeline.config import InferenceConfig, load_config, parse_config
from penstock.pipeline.core.checkpoint import Sidecar
from penstock.pipeline.core.codecs import codec
from penstock.pipeline.core.errors import Corrupt, InvalidInput, NotFound
from penstock.pipeline.core.schema import ModelSchema, TableSchema
from penstock.pipeline.core.times import WallTime
from penstock.pipeline.environment import open_environment
from penstock.publishers import FRESH, Delivery
from penstock.serving import Client, Replica, Server
from penstock.serving.inference import InferenceNode, load_transform, read_frequencies
from penstock.serving.inference.hot_table import HotTable
from penstock.serving.inference.members import Members
from penstock.serving.inference.missing import Missing
from penstock.serving.inference.near_cache import NearCache
from penstock.serving.inference.traffic import Counted, Counts, hottest
from penstock.serving.table import Table

KEYS = st.lists(st.integers(-(2**63), 2**63 - 1), unique=True, max_size=60)


@given(KEYS, KEYS)
def test_members_know_their_places_and_keep_what_is_known_of_those_that_stay(first, second):
    members = Members(np.unique(np.array(first, np.int64)))
    members.absent[:] = members.keys % 2 == 0
    members.written[:] = np.arange(members.keys.size)
    asked = np.array([*first, *second], np.int64)
    known = {key: place for place, key in enumerate(members.keys.tolist())}
    assert members.places(asked).tolist() == [known.get(key, -1) for key in asked.tolist()]
    later = members.replaced(np.array(second, np.int64))
    assert later.keys.tolist() == sorted(second)
    for place, key in enumerate(later.keys.tolist()):
        assert later.absent[place] == (key in known and key % 2 == 0)
        assert later.written[place] == known.get(key, 0)


@given(st.lists(st.integers(0, 9), max_size=40), st.data())
def test_what_is_missing_is_asked_for_once_and_goes_where_it_was_asked_for(keys, data):
    keys = np.array(keys, np.int64)
    known = np.array(data.draw(st.lists(st.booleans(), min_size=keys.size, max_size=keys.size)), np.bool_)
    missing = Missing.of(keys, known)
    assert sorted(missing.keys.tolist()) == sorted(set(keys[~known].tolist()))
    out, there = np.full((keys.size, 2), -1, np.float32), np.zeros(keys.size, np.bool_)
    rows = np.stack([missing.keys, missing.keys + 1], axis=1).astype(np.float32)
    before = known.copy()
    missing.spread(known, rows, missing.keys % 2 == 0, out, there)
    assert known.all()
    assert (out[before] == -1).all()
    assert np.array_equal(out[~before], np.stack([keys, keys + 1], axis=1)[~before])
    assert np.array_equal(there[~before], keys[~before] % 2 == 0)


def near(nbytes=1 << 14, expiry_us=100):
    return NearCache(dim=2, nbytes=nbytes, expiry_us=expiry_us)


def put(cache, keys, now, *, tickets=None):
    keys = np.array(keys, np.int64)
    rows = np.stack([keys, keys], axis=1).astype(np.float32)
    tickets = cache.tickets(keys) if tickets is None else tickets
    return cache.put(keys, keys % 2 == 0, rows, proven=np.ones(keys.size, np.bool_), tickets=tickets, now=WallTime(now))


def get(cache, keys, now):
    keys = np.array(keys, np.int64)
    known, found, rows = np.zeros(keys.size, np.bool_), np.zeros(keys.size, np.bool_), np.zeros((keys.size, 2), np.float32)
    count = cache.get(keys, WallTime(now), known=known, found=found, out=rows)
    assert count == known.sum()
    assert all(
        row[0] == key and there == (key % 2 == 0) for key, row, there, k in zip(keys, rows, found, known, strict=True) if k
    )
    return keys[known].tolist()


def test_a_near_cache_is_bounded_expires_and_forgets_what_is_dropped():
    cache = near()
    assert cache.nbytes <= 1 << 14
    put(cache, range(10_000), 1_000)
    left = get(cache, range(10_000), 1_001)
    assert 0 < len(left) <= cache.sets * 8
    assert get(cache, left, 1_101) == []
    put(cache, [1, 2, 3], 2_000)
    cache.drop(np.array([2]))
    assert get(cache, [1, 2, 3], 2_000) == [1, 3]
    put(cache, [1], 2_050)
    assert get(cache, [1, 3], 2_120) == [1], "read again, it counts anew"
    cache.clear()
    assert get(cache, [1, 3], 2_050) == []


def test_what_was_asked_for_before_its_key_was_dropped_is_not_kept():
    cache = near()
    tickets = cache.tickets(np.array([5, 6]))
    cache.drop(np.array([5]))
    put(cache, [5, 6], 10, tickets=tickets)
    assert 5 not in get(cache, [5, 6], 10)
    tickets = cache.tickets(np.array([5]))
    cache.clear()
    assert put(cache, [5], 10, tickets=tickets) == 0


def test_without_memory_nothing_is_near():
    cache = near(nbytes=0)
    assert cache.nbytes == 0
    assert put(cache, [1], 10) == 0
    cache.drop(np.array([1]))
    assert get(cache, [1], 10) == []


def test_counts_find_what_is_asked_for_most_in_bounded_memory_and_fade():
    counts = Counts(512)
    size, draw = counts.nbytes, np.random.default_rng(0)
    for _ in range(100):
        counts.add(np.concatenate([np.arange(20), draw.integers(100, 1_000_000, 300)]))
    found = counts.fade()
    assert counts.nbytes == size
    assert np.unique(found.keys).size == found.keys.size <= 512
    top = found.keys[np.argsort(-found.counts)][:20]
    assert set(top.tolist()) == set(range(20))
    again = counts.fade()
    assert np.allclose(again.counts[np.argsort(again.keys)], found.counts[np.argsort(found.keys)] / 2)


@given(
    st.dictionaries(st.sampled_from("ab"), st.lists(st.integers(0, 50), unique=True, min_size=1, max_size=20)),
    st.integers(0, 900),
)
def test_the_hottest_fit_and_nothing_that_is_left_out_is_hotter(keys, budget):
    counted = {name: Counted(np.array(some), np.array(some, float) + 1) for name, some in keys.items()}
    sizes = {"a": 10, "b": 25}
    chosen = hottest(counted, sizes, budget, {})
    assert sum(sizes[name] * some.size for name, some in chosen.items()) <= budget
    scores = {(name, key): (key + 1) / sizes[name] for name, some in keys.items() for key in some}
    taken = {(name, key) for name, some in chosen.items() for key in some.tolist()}
    if taken and len(taken) < len(scores):
        assert min(scores[each] for each in taken) >= max(scores[each] for each in scores if each not in taken)


def test_a_hot_key_gives_way_only_to_one_that_is_asked_for_clearly_more():
    counted = {"a": Counted(np.array([1, 2]), np.array([10.0, 11.0]))}
    assert hottest(counted, {"a": 1}, 1, {"a": np.array([1])})["a"].tolist() == [1]
    assert hottest(counted, {"a": 1}, 1, {})["a"].tolist() == [2]
    with pytest.raises(InvalidInput, match="one count"):
        hottest({"a": Counted(np.array([1]), np.array([-1.0]))}, {"a": 1}, 1, {})


@pytest.mark.parametrize("name", ["float32", "float16", "int8"])
def test_rows_from_the_log_are_what_a_replica_makes_of_them(name):
    dim, draw = 6, np.random.default_rng(1)
    encoded = codec(name).encode(draw.standard_normal((50, dim), np.float32))
    kind = TableSchema(dim=dim, codec=name, width=encoded.shape[1])
    schema = ModelSchema(model="m", id="0" * 32, buckets=4, partitions=1, log="l", tables={"t": kind}, created_at=0)
    keys = np.arange(50)
    replicas = Table(
        codec=name, dim=dim, width=kind.width, bucket_count=4, partition_count=1, held=range(4), image_bytes=0, max_labels=1
    )
    replicas.load(keys, encoded)
    table = HotTable(schema, kind, near_bytes=0, expiry_us=1)
    table.choose(keys)
    table.apply(0, keys, encoded, keys[:0])
    out = np.empty((50, dim), np.float32)
    known, found = table.lookup(keys, out)
    assert known.all()
    assert found.all()
    assert np.array_equal(out.view(np.uint32), replicas.lookup(keys)[0].view(np.uint32))


def test_frequencies_stand_beside_a_checkpoint_and_are_named_by_its_sidecar(tmp_path):
    checkpoint = tmp_path / "step_1.pt"
    np.savez(tmp_path / "item.npz", keys=np.array([3, 1]), counts=np.array([7, 9]))
    named = tmp_path / "step_1.pt.penstock.json"
    named.write_bytes(Sidecar(step=1, frequencies={"item": "item.npz"}).encode())
    keys, counts = read_frequencies(checkpoint)["item"]
    assert dict(zip(keys.tolist(), counts.tolist(), strict=True)) == {3: 7, 1: 9}
    for arrays, said in (
        ({"keys": np.array([1, 1]), "counts": np.array([1, 2])}, "twice"),
        ({"keys": np.array([1]), "counts": np.array([-1.0])}, "negative"),
        ({"keys": np.array([1.0]), "counts": np.array([1])}, "keys float64"),
        ({"keys": np.array([1])}, "not an npz file"),
        ({"keys": np.array([1]), "counts": np.array([object()])}, "not an npz file"),
    ):
        np.savez(tmp_path / "item.npz", **arrays)
        with pytest.raises(Corrupt, match=said):
            read_frequencies(checkpoint)
    (tmp_path / "item.npz").unlink()
    with pytest.raises(NotFound, match="the sidecar names it"):
        read_frequencies(checkpoint)
    named.write_bytes(Sidecar(step=1, frequencies={"item": "../item.npz"}).encode())
    with pytest.raises(InvalidInput, match="beside the sidecar"):
        read_frequencies(checkpoint)
    with pytest.raises(NotFound, match="no sidecar"):
        read_frequencies(tmp_path / "other.pt")


def installed(monkeypatch, *values):
    points = [importlib.metadata.EntryPoint("mine", value, "penstock.transforms") for value in values]

    def entry_points(*, group, name=None):
        assert group == "penstock.transforms"
        return [point for point in points if name in (None, point.name)]

    monkeypatch.setattr("penstock.serving.inference.transforms.entry_points", entry_points)


def test_a_transform_is_found_by_its_name(monkeypatch, world, begin, writer):
    installed(monkeypatch, "penstock.examples.retail.features:transform")
    assert load_transform("mine") is transform
    node, _, _ = begin(options={"transform": "mine"})
    with pytest.raises(InvalidInput, match="needs the feature 'customer'"):
        node.transformed({})
    with pytest.raises(NotFound, match="no feature transform 'other' is installed \\(transforms: mine\\)"):
        load_transform("other")
    for values, said in (
        (("json:dumps", "json:loads"), "json:dumps and json:loads have that name"),
        (("no_such_module:f",), "cannot be loaded"),
        (("json:__doc__",), "is str, not a function"),
    ):
        installed(monkeypatch, *values)
        with pytest.raises(InvalidInput, match=said):
            load_transform("mine")


def test_the_retail_transform_makes_the_keys_that_the_trainer_has():
    batch = PurchaseStream(read_purchases(), size=4, negatives=1, seed=1).batch(0)
    raw = {"customer": [17850, None], "product": [" 85123a", "71053"], "country": ["United Kingdom"] * 2, "at": [9 * HOUR_US, 0]}
    found = transform(raw)
    assert found["customer"].tolist() == [17850, 0]
    assert found["hour"].tolist() == [9, 0]
    assert found["product"][0] == batch.keys["product"][0]
    assert found["country"][0] == batch.keys["country"][0]
    with pytest.raises(InvalidInput, match="different lengths"):
        transform(raw | {"at": [1]})


def test_the_config_has_a_section_for_it():
    text = '[store]\nurl = "file:///a"\n[log]\nurl = "file:///b"\n[inference]\nhot_bytes = 7\n'
    assert parse_config(text, "c").inference == InferenceConfig(hot_bytes=7)
    with pytest.raises(InvalidInput, match=r"inference.max_lag"):
        parse_config(text + 'max_lag = "soon"\n', "c")


def test_over_the_network_a_client_is_the_cluster(world):
    """Positions come over Arrow Flight: hot keys are admitted, and a pinned version is answered."""
    world.config = msgspec.structs.replace(world.config, inference=InferenceConfig(**SLOW))
    writer = published(world, *range(20))
    replica = Replica(world.environment(), name="r")
    step(replica)
    server = Server(replica, host="127.0.0.1", port=0)
    replica.address = server.address
    try:
        with Client(server.address) as client, InferenceNode(world.environment(), client) as node:
            node.choose(hot(item=range(10)))
            writer.put("item", 2, 3)
            step(replica)
            steps(node)
            assert rows_of(node, "item", range(20)) == [world.model["item"][k] for k in range(20)]
            assert node.status().hits == {"hot": 10, "near": 0, "cluster": 10, "defaults": 0}
            assert node.edition.table("item").row_count == 10
            assert rows_of(node, "item", range(20)) == [world.model["item"][k] for k in range(20)]
            assert node.status().hits["near"] == 10
    finally:
        server.drain()


def test_a_node_of_a_config_finds_its_replicas_and_follows_by_itself(tmp_path):
    path = tmp_path / "penstock.toml"
    path.write_text(
        f'[store]\nurl = "{(tmp_path / "store").as_uri()}"\n[log]\nurl = "{(tmp_path / "log").as_uri()}"\npartitions = 2\n'
        '[models.m.tables.item]\nkeys = "keys"\nrows = "rows"\n[inference]\nmax_lag = "1h"\n'
    )
    rows = np.arange(20, dtype=np.float32).reshape(10, 2)
    with Delivery.open(path, publisher="trainer", resume=FRESH) as delivery:
        delivery.publish_snapshot({"item": (np.arange(10), rows)}, dense={"w": rows[0]}, trained_through="2026-01-01T00:00:00Z")
        with open_environment(load_config(path), "m") as env:
            replica = Replica(env, name="r")
            server = Server(replica, host="127.0.0.1", port=0)
            replica.address = server.address
            replica.start()
            try:
                counted = {"item": Counted(np.arange(4), np.ones(4))}
                with InferenceNode.open(path, hot=counted) as node:
                    reached(lambda: node.status().tables["item"].rows == 4)
                    found = node.inputs({"item": np.arange(10)})
                    assert np.array_equal(found.rows["item"], rows)
                    assert np.array_equal(found.dense["w"], rows[0])
                    assert (found.sources.hot, found.sources.cluster) == (4, 6)
                    delivery.updates().put("item", np.array([1]), rows[9:] + 1, trained_through="2026-01-01T00:00:01Z")
                    reached(lambda: node.inputs({"item": [1]}).rows["item"][0, 0] == 19)
            finally:
                server.drain()
                replica.close()
