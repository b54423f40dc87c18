from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from penstock.examples.retail.checkpoint import read_checkpoint, write_checkpoint
from penstock.examples.retail.model import TABLES, score, time_context
from penstock.examples.retail.quality import auc
from penstock.examples.retail.stream import PurchaseStream, read_purchases
from penstock.examples.retail.table import INITIAL_ACCUMULATOR
from penstock.examples.retail.trainer import OnlineTrainer, fresh_state
from penstock.pipeline.core.checkpoint import Sidecar
from penstock.pipeline.core.errors import Corrupt, InvalidInput, NotFound
from penstock.pipeline.core.times import NEVER, format_time
from penstock.slicer.sidecar import sidecar_path


@pytest.fixture(scope="module")
def stream():
    return PurchaseStream(read_purchases(), size=64, negatives=2, seed=3)


def trained(stream, steps):
    trainer = OnlineTrainer(fresh_state(seed=1))
    for number in range(steps):
        trainer.learn(stream.batch(number))
    return trainer


def same(one, other):
    return (
        (one.steps, one.trained_through) == (other.steps, other.trained_through)
        and all(np.array_equal(one.dense[name], other.dense[name]) for name in one.dense)
        and all(np.array_equal(one.dense_accumulators[n], other.dense_accumulators[n]) for n in one.dense)
        and all(
            np.array_equal(getattr(one.tables[table], column), getattr(other.tables[table], column))
            for table in TABLES
            for column in ("keys", "rows", "accumulators")
        )
    )


def test_a_step_touches_the_keys_of_its_batch_and_no_other_row(stream):
    trainer = trained(stream, 5)
    before = trainer.state()
    batch = stream.batch(5)
    step = trainer.learn(batch)
    assert step.number == 6
    assert step.trained_through == batch.trained_through == trainer.trained_through
    for table in TABLES:
        assert np.array_equal(np.sort(step.touched[table]), np.unique(batch.keys[table]))
        untouched = ~np.isin(before.tables[table].keys, step.touched[table])
        kept = before.tables[table].keys[untouched]
        assert np.array_equal(trainer.rows(table, kept), before.tables[table].rows[untouched])
        had = before.tables[table].keys[~untouched]
        assert np.any(trainer.rows(table, had) != before.tables[table].rows[~untouched], axis=1).all()


def test_nothing_is_learned_by_predicting(stream):
    trainer = trained(stream, 3)
    before, batch = trainer.state(), stream.batch(3)
    trainer.predict(batch)
    assert same(trainer.state(), before)
    assert trainer.sizes() == {table: before.tables[table].keys.size for table in TABLES}


def test_rows_from_elsewhere_score_as_the_trainer_predicts(stream):
    trainer, batch = trained(stream, 10), stream.batch(10)
    state = trainer.state()
    known = {name: dict(zip(table.keys.tolist(), table.rows, strict=True)) for name, table in state.tables.items()}
    zeros = np.zeros(16, np.float32)
    rows = {name: np.array([known[name].get(key, zeros) for key in batch.keys[name].tolist()]) for name in TABLES}
    assert np.array_equal(score(rows, time_context(batch.at), state.dense), trainer.predict(batch))


def test_it_learns(stream):
    trainer = OnlineTrainer(fresh_state(seed=1))
    losses = [trainer.learn(stream.batch(number)).loss for number in range(300)]
    assert np.mean(losses[-50:]) < 0.95 * np.mean(losses[10:60])
    repeated = [trainer.learn(stream.batch(300)).loss for _ in range(30)]
    assert repeated[-1] < 0.6 * repeated[0]


def test_what_it_learns_from_is_what_was_reported(stream):
    one, other = trained(stream, 3), trained(stream, 3)
    batch = stream.batch(3)
    for _ in range(40):
        one.learn(batch)
        other.learn(replace(batch, reported=1 - batch.billed))
    assert auc(batch.billed, one.predict(batch)) > 0.9
    assert auc(batch.billed, other.predict(batch)) < 0.1


def test_trained_through_only_grows(stream):
    trainer = trained(stream, 5)
    through = trainer.trained_through
    assert trainer.learn(stream.batch(0)).trained_through == through


def test_a_trainer_from_a_state_goes_on_bit_by_bit(stream, tmp_path):
    straight = trained(stream, 12)
    broken_off = trained(stream, 7)
    write_checkpoint(tmp_path / "7.safetensors", broken_off.state())
    broken_off.learn(stream.batch(7))
    resumed = OnlineTrainer(read_checkpoint(tmp_path / "7.safetensors"))
    assert resumed.steps == 7
    for number in range(7, 12):
        resumed.learn(stream.batch(number))
    assert same(resumed.state(), straight.state())
    assert [path.name for path in tmp_path.iterdir()] == ["7.safetensors"]


def test_missing_accumulators_restart_at_the_documented_value(stream, tmp_path):
    state = trained(stream, 4).state()
    bare = replace(
        state,
        tables={name: replace(table, accumulators=None) for name, table in state.tables.items()},
        dense_accumulators=None,
    )
    write_checkpoint(tmp_path / "bare", bare)
    restarted = OnlineTrainer(read_checkpoint(tmp_path / "bare")).state()
    for name in TABLES:
        assert np.array_equal(restarted.tables[name].rows, state.tables[name].rows)
        assert (restarted.tables[name].accumulators == np.float32(INITIAL_ACCUMULATOR)).all()
    assert all((values == np.float32(INITIAL_ACCUMULATOR)).all() for values in restarted.dense_accumulators.values())


def test_an_export_has_its_steps_and_times_in_the_sidecar_beside_it(stream, tmp_path):
    state = trained(stream, 4).state()
    path = tmp_path / "export.safetensors"
    write_checkpoint(path, state)
    tensors = load_file(path)
    save_file(tensors, path)
    with pytest.raises(Corrupt, match="no 'steps'"):
        read_checkpoint(path)
    sidecar = Sidecar(step=4, trained_through=format_time(state.trained_through))
    sidecar_path(path).write_bytes(sidecar.encode())
    assert same(read_checkpoint(path), state)
    sidecar_path(path).write_bytes(Sidecar().encode())
    assert read_checkpoint(path).trained_through == NEVER


def test_a_fresh_trainer_has_learned_from_nothing(stream):
    trainer = OnlineTrainer(fresh_state(seed=1))
    assert trainer.trained_through == NEVER
    assert trainer.sizes() == dict.fromkeys(TABLES, 0)
    assert np.unique(trainer.predict(replace(stream.batch(0), at=np.zeros_like(stream.batch(0).at)))).size == 1


def test_states_of_another_model_are_refused():
    state = fresh_state(seed=1)
    with pytest.raises(InvalidInput, match="tables"):
        OnlineTrainer(replace(state, tables={"customer": state.tables["customer"]}))
    with pytest.raises(InvalidInput, match="dense parameters"):
        OnlineTrainer(replace(state, dense=state.dense | {"top.1.bias": np.zeros(2, np.float32)}))


def test_files_that_are_no_checkpoint(tmp_path, stream):
    with pytest.raises(NotFound, match="no such checkpoint"):
        read_checkpoint(tmp_path / "none")
    (tmp_path / "text").write_text("not a checkpoint at all")
    with pytest.raises(Corrupt, match="not a safetensors file"):
        read_checkpoint(tmp_path / "text")
    state = fresh_state(seed=1)
    write_checkpoint(tmp_path / "part", replace(state, dense={"top.1.bias": state.dense["top.1.bias"]}))
    with pytest.raises(Corrupt, match=r"no 'dense/bottom.0.weight'"):
        read_checkpoint(tmp_path / "part")
