"""TorchEasyRec's deltas: rows of many tables, ranks and row groups, by table and by range."""

import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from easyrec_deltas import SCHEMA, batch, write_step
from hypothesis import given, settings
from hypothesis import strategies as st
from open_files import nothing_left_open

from penstock.pipeline.core.errors import Corrupt, PenstockError, Refused, Unsupported
from penstock.slicer.readers import open_checkpoint
from penstock.slicer.readers.dumps.torcheasyrec_delta import is_torcheasyrec_delta, open_torcheasyrec_delta

USERS = [("ebc.users", 5, [1.0, 2.0]), ("ebc.users", -3, [0.5, -0.0]), ("ebc.users", 9, [0.0, 0.0])]
ITEMS = [("ebc.items", 5, [1.0, 2.0, 3.0])]
WIDTHS = {"a": 1, "b": 3, "c.d": 8}

rows = st.lists(st.tuples(st.sampled_from(list(WIDTHS)), st.integers(-(2**63), 2**63 - 1), st.integers(0, 3)), max_size=60)


@settings(max_examples=60, deadline=None)
@given(rows=rows, ranks=st.integers(1, 3), group_rows=st.integers(1, 20), data=st.data())
def test_every_table_by_range(tmp_path_factory, monkeypatch_batches, rows, ranks, group_rows, data):
    """A key has one vector, which depends on it; 0 is a deletion. Ranks share keys, as those of a replicated table do."""
    rows = {(table, key): [float(value)] + [value / 3] * (WIDTHS[table] - 1) for table, key, value in rows}
    parts = [[] for _ in range(ranks)]
    for (table, key), vector in rows.items():
        for rank in data.draw(st.sets(st.integers(0, ranks - 1), min_size=1)):
            parts[rank].append((table, key, vector))
    path = write_step(tmp_path_factory.mktemp("any"), parts, group_rows=group_rows)
    expected = {}
    for part in parts:
        for table, key, vector in part:
            expected.setdefault(table, {})[key] = vector
    with open_checkpoint(path) as checkpoint:
        assert (checkpoint.format, checkpoint.partial) == ("torcheasyrec delta", True)
        names = {info.name for info in checkpoint.tensors}
        for table, vectors in expected.items():
            kept = {key: vector for key, vector in vectors.items() if any(vector)}
            gone = sorted(vectors.keys() - kept.keys())
            assert checkpoint.read(f"{table}/keys").tolist() == list(kept)
            wanted = np.array(list(kept.values()), np.float32).reshape(len(kept), WIDTHS[table])
            assert checkpoint.read(f"{table}/rows").tobytes() == wanted.tobytes()
            assert (checkpoint.read(f"{table}/deleted").tolist() if f"{table}/deleted" in names else []) == gone
            start = data.draw(st.integers(0, len(kept)))
            into = np.empty((data.draw(st.integers(0, len(kept) - start)), WIDTHS[table]), np.float64)
            checkpoint.read_rows_into(f"{table}/rows", start, into)
            assert into.tobytes() == wanted[start : start + len(into)].astype(np.float64).tobytes()
            assert b"".join(each.tobytes() for each in checkpoint.blocks(f"{table}/rows", limit_bytes=8)) == wanted.tobytes()
        assert {name.rpartition("/")[0] for name in names} == expected.keys()


@pytest.fixture(scope="module")
def monkeypatch_batches():
    """Batches of a few rows, so that ranges span them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("penstock.slicer.readers.dumps.parquet_rows.BATCH_ROWS", 5)
        yield


def test_roles_and_bits(tmp_path):
    path = write_step(tmp_path, [[*USERS, *ITEMS]])
    with open_checkpoint(path) as checkpoint:
        assert [(info.name, info.shape, info.dtype, info.role) for info in checkpoint.tensors] == [
            ("ebc.users/keys", (2,), "int64", "other"),
            ("ebc.users/rows", (2, 2), "float32", "embedding"),
            ("ebc.users/deleted", (1,), "int64", "other"),
            ("ebc.items/keys", (1,), "int64", "other"),
            ("ebc.items/rows", (1, 3), "float32", "embedding"),
        ]
        assert checkpoint.read("ebc.users/deleted").tolist() == [9]
        assert np.signbit(checkpoint.read("ebc.users/rows")[1, 1])


def test_backwards_and_again(tmp_path):
    wide = [("t", key, [float(key), 1.0]) for key in range(1, 30_001)]
    path = write_step(tmp_path, [wide], group_rows=9000)
    with open_checkpoint(path) as checkpoint:
        for start, stop in ((29_000, 30_000), (0, 3), (8999, 9001), (8998, 8999), (0, 30_000), (12_345, 12_345)):
            found = checkpoint.rows("t/rows", start, stop)
            assert found[:, 0].tolist() == list(range(start + 1, stop + 1))


def test_the_newer_columns(tmp_path):
    path = tmp_path / "delta.parquet"
    table = batch(USERS).drop_columns(["source"]).append_column("embedding_name", pa.array(["u"] * 3))
    pq.write_table(table.select(list(reversed(table.column_names))), path, compression="zstd")
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.read("ebc.users/keys").tolist() == [5, -3]


def test_a_rank_that_touched_nothing(tmp_path):
    with open_checkpoint(write_step(tmp_path, [USERS, []])) as checkpoint:
        assert checkpoint.read("ebc.users/keys").tolist() == [5, -3]


def test_a_step_that_touched_nothing(tmp_path):
    with open_checkpoint(write_step(tmp_path, [[], []])) as checkpoint:
        assert checkpoint.tensors == ()


def test_rows_that_several_ranks_hold_count_once(tmp_path):
    other = ("ebc.users", 7, [7.0, 7.0])
    with open_checkpoint(write_step(tmp_path, [USERS, [other, *USERS], USERS])) as checkpoint:
        assert checkpoint.read("ebc.users/keys").tolist() == [5, -3, 7]
        assert checkpoint.read("ebc.users/rows").tolist() == [[1.0, 2.0], [0.5, -0.0], [7.0, 7.0]]
        assert checkpoint.read("ebc.users/deleted").tolist() == [9]


def test_a_key_with_two_vectors(tmp_path):
    path = write_step(tmp_path, [USERS, [("ebc.users", -3, [0.5, 0.0])]])
    with pytest.raises(Refused, match="table ebc.users, key -3 is there twice, with different vectors"):
        open_checkpoint(path)


def test_a_key_that_is_there_and_has_gone(tmp_path):
    path = write_step(tmp_path, [USERS, [("ebc.users", 9, [0.0, 1.0])]])
    with pytest.raises(Refused, match="table ebc.users, key 9 is there with a vector and as one that has gone"):
        open_checkpoint(path)


def test_a_rank_is_missing(tmp_path):
    path = write_step(tmp_path, [USERS, ITEMS, []])
    (path / "delta_embedding_step_7_rank_2_of_3.parquet").unlink()
    with pytest.raises(Corrupt, match="ranks: part 2 of 3 is missing"):
        open_checkpoint(path)


def test_one_rank_alone(tmp_path):
    path = write_step(tmp_path, [USERS, ITEMS])
    with pytest.raises(Refused, match="one of the 2 ranks of a step") as refused:
        open_checkpoint(path / "delta_embedding_step_7_rank_0_of_2.parquet")
    assert str(path) in refused.value.hint


def test_one_rank_alone_under_another_name(tmp_path):
    path = write_step(tmp_path, [USERS, ITEMS])
    (path / "delta_embedding_step_7_rank_0_of_2.parquet").rename(tmp_path / "delta.parquet")
    with pytest.raises(Corrupt, match="of a run of 2 ranks, of which 1 are here"):
        open_checkpoint(tmp_path / "delta.parquet")


def test_ranks_of_two_steps_in_one_folder(tmp_path):
    path = write_step(tmp_path, [USERS, ITEMS])
    again = path / "delta_embedding_step_8_rank_0_of_2.parquet"
    pq.write_table(batch(USERS, step=8, ranks=2), again)
    with pytest.raises(Refused, match="are both of rank 0"):
        open_checkpoint(path)
    again.replace(path / "delta_embedding_step_7_rank_0_of_2.parquet")
    with pytest.raises(Refused, match="rows of step 7 among those of step 8"):
        open_checkpoint(path)


def test_ranks_that_were_swapped(tmp_path):
    path = write_step(tmp_path, [USERS, ITEMS])
    first, second = sorted(path.iterdir())
    first.rename(path / "x")
    second.rename(first)
    (path / "x").rename(second)
    with pytest.raises(Corrupt, match="rows of rank 1 in the file of rank 0"):
        open_checkpoint(path)


def test_runs_of_two_sizes(tmp_path):
    path = write_step(tmp_path, [USERS, ITEMS])
    pq.write_table(batch(USERS, ranks=3), path / "delta_embedding_step_7_rank_0_of_3.parquet")
    with pytest.raises(Corrupt, match="runs of 2 and of 3 ranks are mixed"):
        open_checkpoint(path)


def test_several_steps_are_several_checkpoints(tmp_path):
    for step in (7, 8):
        write_step(tmp_path, [USERS], step=step)
    with pytest.raises(Refused, match="a folder of 2 checkpoints"):
        open_checkpoint(tmp_path)


def changed(name, kind):
    return SCHEMA.set(SCHEMA.get_field_index(name), pa.field(name, kind))


@pytest.mark.parametrize(
    ("rows", "schema", "error", "match"),
    [
        ([("t", 1, [1, 2])], changed("embedding", pa.list_(pa.uint8())), Unsupported, "vectors are quantised"),
        ([("t", 1, [1, 2])], changed("embedding", pa.list_(pa.float64())), Corrupt, "embedding is list<element: double>"),
        ([("t", 1, [1.0])], changed("key_id", pa.int32()), Corrupt, "key_id is int32, not int64"),
        ([("t", 1, [1.0])], changed("rank", pa.int64()), Corrupt, "rank is int64, not int32"),
        ([(b"t", 1, [1.0])], changed("table_fqn", pa.binary()), Corrupt, "table_fqn is binary"),
        ([("t", None, [1.0])], SCHEMA, Corrupt, "a null in column key_id"),
        ([(None, 1, [1.0])], SCHEMA, Corrupt, "a null in column table_fqn"),
        ([("t", 1, None)], SCHEMA, Corrupt, "a null in column embedding"),
        ([("t", 1, [1.0, None])], SCHEMA, Corrupt, "a null in a vector"),
        ([("t", 1, [])], SCHEMA, Corrupt, "table t, key 1: 0 elements"),
        ([("t", 1, [1.0, 2.0]), ("t", 2, [1.0])], SCHEMA, Corrupt, "table t, key 2: 1 elements, other rows have 2"),
        ([("t", 1, [1.0, 2.0]), ("u", 2, [1.0]), ("t", 3, [])], SCHEMA, Corrupt, "table t, key 3: 0 elements"),
    ],
)
def test_what_is_no_delta(tmp_path, rows, schema, error, match):
    pq.write_table(batch(rows, schema=schema), tmp_path / "delta.parquet")
    with nothing_left_open(), pytest.raises(error, match=match):
        open_checkpoint(tmp_path / "delta.parquet")


def test_columns_that_are_there_twice(tmp_path):
    table = batch(USERS).append_column("rank", pa.array([0, 0, 0], pa.int32()))
    pq.write_table(table, tmp_path / "delta.parquet")
    with pytest.raises(Corrupt, match="column rank is not there, or there twice"):
        open_checkpoint(tmp_path / "delta.parquet")


def test_other_parquet_files_are_none(tmp_path):
    pq.write_table(pa.table({"key": [1], "row": [[1.0]]}), tmp_path / "x.parquet")
    (tmp_path / "y_rank_0_of_1.parquet").write_bytes(b"PAR1PAR1")
    assert not is_torcheasyrec_delta(tmp_path / "x.parquet", b"PAR1")
    assert not is_torcheasyrec_delta(tmp_path, b"")


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_no_damage_is_anything_but_a_refusal(tmp_path_factory, data):
    """A byte of the file is changed, or its end is gone: it reads, or one of our errors says why not."""
    path = write_step(tmp_path_factory.mktemp("any"), [[*USERS, *ITEMS]])
    whole = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(whole[: data.draw(st.sampled_from([len(whole), at]))])
    why = str(path)
    with nothing_left_open():
        try:
            with open_torcheasyrec_delta(path) as checkpoint:
                for info in checkpoint.tensors:
                    checkpoint.read(info.name)
        except PenstockError as error:
            why = str(error)
    assert str(path) in why


def test_a_file_that_shrinks_while_it_is_read(tmp_path):
    path = write_step(tmp_path, [[("t", key, [float(key)] * 64) for key in range(1, 20_000)]])
    with open_checkpoint(path) as checkpoint:
        os.truncate(path, 1000)
        with pytest.raises(Corrupt, match=r"has shrunk"):
            checkpoint.rows("t/rows", 10_000, 10_001)


def test_nothing_is_read_of_a_closed_one(tmp_path):
    checkpoint = open_checkpoint(write_step(tmp_path, [USERS]))
    checkpoint.close()
    with pytest.raises(PenstockError, match="is closed"):
        checkpoint.read("ebc.users/rows")
