"""What a trainer's process opens, on a real folder: birth, publishing, marks, and the restart from a sidecar."""

import numpy as np
import pytest
from trainer_world import rows_of

from penstock.pipeline.catalog.checkpoints import marked_checkpoint
from penstock.pipeline.core.errors import InvalidInput, NotFound, NotResumable, Refused, Superseded
from penstock.pipeline.core.ids import State
from penstock.publishers import FRESH, Delivery, Sidecar

CONFIG = """
[store]
url = "file://{folder}/store"
[log]
url = "file://{folder}/log"
partitions = 2
[realtime]
linger_ms = 0
[models.retail]
buckets = 16
[models.retail.tables.item]
keys = "item/keys"
rows = "item/rows"
"""
T = "2023-11-14T22:13:20Z"


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "penstock.toml"
    path.write_text(CONFIG.format(folder=tmp_path))
    return path


def open_delivery(config, resume=FRESH, **options):
    return Delivery.open(config, publisher="trainer-0", resume=resume, **options)


def arrays(values):
    return {"item": (np.arange(len(values)), rows_of(values))}


def save(path, values, sidecar=None):
    np.savez(path, **{"item/keys": np.arange(len(values)), "item/rows": rows_of(values), "tower/w": np.ones(3, np.float32)})
    if sidecar is not None:
        path.with_name(path.name + ".penstock.json").write_bytes(sidecar.encode())
    return path


def test_from_birth_to_restart(config, tmp_path):
    values = np.arange(10.0)
    with open_delivery(config) as delivery:
        first = delivery.publish_snapshot(save(tmp_path / "step_1.npz", values), trained_through=T)
        updates = delivery.updates()
        values[3] = 33
        updates.put("item", [3], rows_of([33]), trained_through="2023-11-14T22:14:00Z")
        with pytest.raises(Refused, match="rows were put since the last mark"):
            delivery.publish_delta(save(tmp_path / "step_2.npz", values))
        saved = save(tmp_path / "step_2.npz", values, updates.mark(step=2))
        second = delivery.publish_delta(saved)
        values[4] = 44
        updates.put("item", [4], rows_of([44]))
    assert (first.kind, first.rows, first.state) == ("snapshot", 10, State(1, 1))
    assert (second.kind, second.rows, second.base, second.state) == ("delta", 1, first.version, State(1, 2))
    with open_delivery(config, saved) as delivery:
        assert (delivery.updates().term, delivery.updates().unsent) == (2, 1), "key 4 is dirty"
        values[4] = 4
        third = delivery.publish_delta(arrays(values), dense={"tower/w": np.ones(3, np.float32)})
        assert (third.rows, third.state.timeline) == (1, 1)
        assert marked_checkpoint(delivery.environment.catalog, third.state).touched["trainer-0"].unsent == 1
        assert [v.version for v in delivery.environment.catalog.history().trunk] == [0, 1, 2, 3]


def test_a_delta_from_the_log(config):
    with open_delivery(config) as delivery:
        delivery.updates().put("item", range(5), rows_of(range(5)), trained_through=T)
        delivery.updates().mark()
        assert delivery.publish_delta_from_log().rows == 5


def test_the_newer_incarnation_wins(config):
    with open_delivery(config) as first:
        sidecar = first.updates().mark()
        with open_delivery(config, sidecar):
            pass
        with pytest.raises(Superseded, match="term 2, not 1"):
            first.updates().flush()
        first.close()


def test_what_cannot_be_resumed_from(config, tmp_path):
    with pytest.raises(NotFound, match="nothing.npz"):
        open_delivery(config, tmp_path / "nothing.npz")
    with pytest.raises(NotResumable, match="names no state"):
        open_delivery(config, Sidecar(step=3))
    with pytest.raises(NotResumable, match="is of model 'other', not 'retail'"):
        open_delivery(config, Sidecar(model="other", state="1-1"))
    with pytest.raises(InvalidInput, match="publisher"):
        Delivery.open(config, publisher="a/b", resume=FRESH)


def test_on_restart_undo_takes_back_at_once(config, tmp_path):
    config.write_text(config.read_text().replace("linger_ms = 0", 'linger_ms = 0\non_restart = "undo"'))
    with pytest.raises(InvalidInput, match="needs the trainer's rows"):
        open_delivery(config)
    rows = np.arange(5.0)

    def rows_now(table, keys):
        return rows_of(rows[keys]), np.ones(len(keys), bool)

    with open_delivery(config, rows_of=rows_now) as delivery:
        delivery.updates().put("item", range(5), rows_of(rows))
        sidecar = delivery.updates().mark()
        delivery.updates().put("item", [2], rows_of([666]))
    with open_delivery(config, sidecar, rows_of=rows_now) as delivery:
        assert delivery.updates().unsent == 0, "what was dirty is in the log again"
        delivery.updates().mark()
        assert delivery.publish_delta_from_log().rows == 5


def test_a_version_that_keeps_the_dense_slice_has_learned_what_that_has(config):
    """A trainer goes back on its own, to before the slice that is served, and brings none itself."""
    early, late, dense = "2023-11-14T22:14:00Z", "2023-11-14T22:20:00Z", {"w": np.ones(2, np.float32)}
    with open_delivery(config) as delivery:
        updates = delivery.updates()
        delivery.publish_snapshot(arrays(np.arange(10.0)), trained_through=early)
        updates.put("item", [1], rows_of([11]), trained_through=early)
        before = updates.mark()
        delivery.publish_delta(arrays(np.arange(10.0)), sidecar=before)
        updates.put("item", [2], rows_of([22]), trained_through=late)
        second = delivery.publish_delta(arrays(np.arange(10.0)), dense=dense, sidecar=updates.mark())
    with open_delivery(config, resume=before) as delivery:
        third = delivery.publish_delta(arrays(np.arange(10.0)))
        assert third.dense == second.dense
        assert third.trained_through == second.trained_through
        fourth = delivery.publish_delta(arrays(np.arange(10.0)), dense={"w": np.zeros(2, np.float32)})
        assert fourth.trained_through < second.trained_through
