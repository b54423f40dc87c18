"""HugeCTR, TFRA and dynamicemb: raw files of keys and rows in parts. What no header says, the sizes have to."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from open_files import nothing_left_open
from raw_dumps import Part, parts_of, write_collection, write_dynamicemb, write_table_folder, write_tfra

from penstock.pipeline.core.errors import Corrupt, NotFound, Refused, Unsupported
from penstock.slicer.readers import open_checkpoint
from penstock.slicer.readers.dumps.dynamicemb_dumps import dynamicemb_sources
from penstock.slicer.readers.dumps.tfra_files import is_tfra, tfra_sources

KEYS = np.array([7, -9, 2**63 - 1, -(2**63), 0], np.int64)
ROWS = np.arange(20, dtype=np.float32).reshape(5, 4)
SCORES = np.array([1, 2, 3, 4, 2**64 - 1], np.uint64)


def assert_table(checkpoint, table, keys, rows):
    before = f"{table}/" if table else ""
    found = checkpoint.read(f"{before}keys"), checkpoint.read(f"{before}rows")
    for one, other in zip(found, (keys, rows), strict=True):
        assert (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())


def write(path, kind, cuts=(2,), scores=None, optimizer=None):
    """The table in parts, as each of the two formats with parts writes it."""
    parts = parts_of(KEYS, ROWS, cuts)
    if scores is not None:
        parts = [Part(part.keys, part.rows, some) for part, some in zip(parts, np.split(scores, cuts), strict=True)]
    if kind == "tfra":
        write_tfra(path, "users", [parts])
    else:
        write_dynamicemb(path, "users", parts)


CUTS = st.lists(st.integers(0, 30), max_size=5).map(sorted)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), cuts=CUTS, width=st.integers(1, 9), kind=st.sampled_from(["tfra", "dynamicemb"]))
def test_parts_are_one_tensor(tmp_path_factory, data, cuts, width, kind):
    folder = tmp_path_factory.mktemp("any")
    count = max(cuts, default=0) + data.draw(st.integers(1, 10))
    random = np.random.default_rng(count * 31 + width)
    keys, rows = random.integers(-(2**63), 2**63 - 1, count), random.random((count, width), np.float32)
    parts = parts_of(keys, rows, cuts)
    if kind == "tfra":
        at = data.draw(st.integers(0, len(parts)))
        write_tfra(folder, "users", [ranks for ranks in (parts[:at], parts[at:]) if ranks])
    else:
        write_dynamicemb(folder, "users", parts)
    start = data.draw(st.integers(0, count))
    stop = data.draw(st.integers(start, count))
    with open_checkpoint(folder) as checkpoint:
        assert (checkpoint.format, checkpoint.partial) == (kind, False)
        assert [info.role for info in checkpoint.tensors] == ["other", "embedding"]
        assert_table(checkpoint, "users", keys, rows)
        assert checkpoint.rows("users/rows", start, stop).tobytes() == rows[start:stop].tobytes()
        into = np.empty((stop - start, width), np.float32)
        checkpoint.read_rows_into("users/rows", start, into)
        assert into.tobytes() == rows[start:stop].tobytes()
        assert b"".join(block.tobytes() for block in checkpoint.blocks("users/rows", limit_bytes=64)) == rows.tobytes()


@pytest.mark.parametrize("kind", ["tfra", "dynamicemb"])
def test_scores_are_beside(tmp_path, kind):
    write(tmp_path, kind, scores=SCORES)
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.read("users/scores").tolist() == SCORES.tolist()
        assert [(info.name, info.dtype, info.role) for info in checkpoint.tensors][2] == ("users/scores", "uint64", "other")


@pytest.mark.parametrize("kind", ["tfra", "dynamicemb"])
def test_a_table_without_rows(tmp_path, kind):
    part = Part(np.empty(0, np.int64), np.empty((0, 4), np.float32))
    write_tfra(tmp_path, "users", [[part]]) if kind == "tfra" else write_dynamicemb(tmp_path, "users", [part])
    with open_checkpoint(tmp_path) as checkpoint:
        assert [info.shape for info in checkpoint.tensors] == [(0,), (0, 0)]
        assert checkpoint.read("users/rows").shape == (0, 0)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("tfra", "users_mht_{}of3_rank0_size1-{}"),
        ("dynamicemb", "users_emb_{1}.rank_{0}.world_size_3"),
    ],
)
class TestTornParts:
    """Three parts of 2, 2 and 1 rows."""

    def paths(self, folder, kind, name, column, count=3):
        write(folder, kind, cuts=(2, 4))
        return [folder / name.format(at + (kind == "tfra"), column) for at in range(count)]

    @pytest.mark.parametrize("gone", [0, 1, 2])
    def test_a_part_is_missing(self, tmp_path, kind, name, gone):
        for column in ("keys", "values"):
            self.paths(tmp_path / "whole", kind, name, column)
        for column in ("keys", "values"):
            (tmp_path / "whole" / name.format(gone + (kind == "tfra"), column)).unlink()
        with pytest.raises(Corrupt, match=rf"users.*part {gone + (kind == 'tfra')} of 3 is missing"):
            open_checkpoint(tmp_path / "whole")

    def test_rows_without_their_keys_or_keys_without_their_rows(self, tmp_path, kind, name):
        self.paths(tmp_path, kind, name, "values")[1].unlink()
        with pytest.raises(Corrupt, match=r"no -values file|emb_values: part 1 of 3 is missing"):
            open_checkpoint(tmp_path)

    def test_keys_that_are_no_whole_number(self, tmp_path, kind, name):
        path = self.paths(tmp_path, kind, name, "keys")[1]
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(Corrupt, match=rf"{path.name}: 15 bytes are no list of int64"):
            open_checkpoint(tmp_path)

    def test_the_pair_is_of_two_saves(self, tmp_path, kind, name):
        path = self.paths(tmp_path, kind, name, "values")[1]
        path.write_bytes(path.read_bytes() + bytes(16))
        with pytest.raises(Corrupt, match=rf"{path.name}: 48 bytes of rows, not 32 for 2 keys"):
            open_checkpoint(tmp_path)

    def test_the_first_rows_do_not_divide(self, tmp_path, kind, name):
        path = self.paths(tmp_path, kind, name, "values")[0]
        path.write_bytes(path.read_bytes() + bytes(4))
        with pytest.raises(Corrupt, match=rf"{path.name}: 36 bytes are no 2 rows of float32"):
            open_checkpoint(tmp_path)

    def test_rows_are_empty(self, tmp_path, kind, name):
        path = self.paths(tmp_path, kind, name, "values")[0]
        path.write_bytes(b"")
        with pytest.raises(Corrupt, match=rf"{path.name}: 0 bytes are no 2 rows"):
            open_checkpoint(tmp_path)

    def test_files_of_two_runs(self, tmp_path, kind, name):
        write(tmp_path, kind, cuts=(2, 4))
        write(tmp_path, kind, cuts=(2,))
        with pytest.raises(Corrupt, match=r"users.*of 2 .*and of 3 .*are mixed"):
            open_checkpoint(tmp_path)

    def test_a_part_too_many(self, tmp_path, kind, name):
        write(tmp_path, kind, cuts=(2, 4))
        for column in ("keys", "values"):
            (tmp_path / name.format(7, column)).write_bytes(b"")
        with pytest.raises(Corrupt, match=r"users.*part 7 of 3"):
            open_checkpoint(tmp_path)

    def test_no_file_stays_open(self, tmp_path, kind, name):
        self.paths(tmp_path, kind, name, "values")[2].write_bytes(b"123")
        with nothing_left_open(), pytest.raises(Corrupt):
            open_checkpoint(tmp_path)


class TestDynamicemb:
    def test_a_dump_has_a_folder_for_each_module(self, tmp_path):
        write_dynamicemb(tmp_path / "model.ebc", "users", parts_of(KEYS, ROWS, [2]))
        write_dynamicemb(tmp_path / "model.ec", "users", parts_of(KEYS, ROWS * 2, []))
        with open_checkpoint(tmp_path) as checkpoint:
            assert_table(checkpoint, "model.ebc/users", KEYS, ROWS)
            assert_table(checkpoint, "model.ec/users", KEYS, ROWS * 2)

    @pytest.mark.parametrize("optimizer", ["opt_values", "emb_opt_values"])
    def test_the_optimizer_is_told_apart_from_the_rows(self, tmp_path, optimizer):
        for table in ("user", "user_emb"):
            parts = [Part(each.keys, each.rows, SCORES[:2], each.rows[:, :2]) for each in parts_of(KEYS[:2], ROWS[:2], [])]
            write_dynamicemb(tmp_path / table, table, parts, optimizer=optimizer)
            (tmp_path / table / f"{table}_opt_args.json").write_text("{}")
            with open_checkpoint(tmp_path / table) as checkpoint:
                assert {info.name: info.role for info in checkpoint.tensors} == {
                    f"{table}/keys": "other",
                    f"{table}/rows": "embedding",
                    f"{table}/scores": "other",
                    f"{table}/optimizer": "optimizer",
                }
                assert checkpoint.read(f"{table}/optimizer").tolist() == ROWS[:2, :2].tolist()

    def test_rows_alone_are_no_table(self, tmp_path):
        write(tmp_path, "dynamicemb")
        (tmp_path / "items_emb_values.rank_0.world_size_2").write_bytes(bytes(8))
        with pytest.raises(Corrupt, match="table items: it has no emb_keys file"):
            open_checkpoint(tmp_path)

    def test_none_where_there_are_none(self, tmp_path):
        assert dynamicemb_sources(tmp_path) == ([], [])


class TestTfra:
    def test_below_a_saved_model(self, tmp_path):
        write(tmp_path / "variables" / "TFRADynamicEmbedding", "tfra")
        sources, files = tfra_sources(tmp_path)
        assert [source.info.name for source in sources] == ["users/keys", "users/rows"]
        assert sources[1].read().tobytes() == ROWS.tobytes()
        for file in files:
            file.close()
        assert is_tfra(tmp_path, b"")

    def test_names_without_a_rank(self, tmp_path):
        KEYS.tofile(tmp_path / "users_mht_1of1-keys")
        ROWS.tofile(tmp_path / "users_mht_1of1-values")
        with open_checkpoint(tmp_path) as checkpoint:
            assert_table(checkpoint, "users", KEYS, ROWS)

    def test_slots_are_the_optimizers(self, tmp_path):
        for table in ("users", "users_Adam_m", "adam_of_all"):
            write_tfra(tmp_path, table, [parts_of(KEYS, ROWS, [])])
        with open_checkpoint(tmp_path) as checkpoint:
            roles = {info.name: info.role for info in checkpoint.tensors if info.name.endswith("rows")}
        assert roles == {"users/rows": "embedding", "users_Adam_m/rows": "optimizer", "adam_of_all/rows": "embedding"}

    def test_ranks_may_have_different_numbers_of_devices(self, tmp_path):
        parts = parts_of(KEYS, ROWS, [1, 3])
        write_tfra(tmp_path, "users", [parts[:1], parts[1:]])
        with open_checkpoint(tmp_path) as checkpoint:
            assert_table(checkpoint, "users", KEYS, ROWS)

    def test_devices_of_two_saves(self, tmp_path):
        write(tmp_path, "tfra", cuts=())
        for column in ("keys", "values"):
            (tmp_path / f"users_mht_1of4_rank0_size1-{column}").write_bytes(b"")
        with pytest.raises(Corrupt, match=r"rank 0: files of 1 and of 4 partitions are mixed"):
            open_checkpoint(tmp_path)

    def test_what_an_interrupted_save_left_is_no_part(self, tmp_path):
        write(tmp_path, "tfra", cuts=())
        (tmp_path / "users_mht_1of1_rank0_size1-keys.tmp").write_bytes(b"123")
        with open_checkpoint(tmp_path) as checkpoint:
            assert_table(checkpoint, "users", KEYS, ROWS)

    def test_a_number_of_parts_that_nobody_has(self, tmp_path):
        (tmp_path / "users_mht_1of999999999_rank0_size999999999-keys").write_bytes(b"")
        with pytest.raises(Corrupt, match="part 1 of 999999999 is missing"):
            open_checkpoint(tmp_path)

    def test_none_where_there_are_none(self, tmp_path):
        assert tfra_sources(tmp_path) == ([], [])


class TestHugectr:
    def test_a_folder_that_is_the_table_gives_it_no_name(self, tmp_path):
        write_table_folder(tmp_path / "step_100", Part(KEYS, ROWS), slots=SCORES)
        with open_checkpoint(tmp_path / "step_100") as checkpoint:
            assert checkpoint.format == "hugectr"
            assert [info.name for info in checkpoint.tensors] == ["keys", "rows", "slots"]
            assert_table(checkpoint, "", KEYS, ROWS)

    def test_names_are_the_same_in_every_checkpoint(self, tmp_path):
        for step in (10, 20):
            folder = tmp_path / f"step_{step}"
            write_table_folder(folder / f"wdl0_sparse_{step}.model", Part(KEYS, ROWS))
            write_table_folder(folder / "users", Part(KEYS, ROWS))
            (folder / f"wdl_dense_{step}.model").write_bytes(bytes(8))
            with open_checkpoint(folder) as checkpoint:
                tables = ["users/keys", "users/rows", "wdl0_sparse/keys", "wdl0_sparse/rows"]
                assert [info.name for info in checkpoint.tensors] == [*tables, "wdl_dense"]

    def test_two_iterations_in_one_folder(self, tmp_path):
        for step in (10, 20):
            write_table_folder(tmp_path / f"wdl0_sparse_{step}.model", Part(KEYS, ROWS))
        with pytest.raises(Refused, match=r"wdl0_sparse_10\.model and wdl0_sparse_20\.model are two iterations") as error:
            open_checkpoint(tmp_path)
        assert "folder of its own" in error.value.hint
        (tmp_path / "one").mkdir()
        for step in (10, 20):
            (tmp_path / f"one/wdl0_opt_sparse_{step}.model").write_bytes(b"1")
        write_table_folder(tmp_path / "one/users", Part(KEYS, ROWS))
        with pytest.raises(Refused, match="are two iterations"):
            open_checkpoint(tmp_path / "one")

    def test_a_folder_of_tables_with_what_lies_beside(self, tmp_path):
        write_table_folder(tmp_path / "wdl0_sparse_10.model", Part(KEYS, ROWS), slots=SCORES)
        write_table_folder(tmp_path / "wdl1_sparse_10.model", Part(KEYS[:2], ROWS[:2, :3]))
        (tmp_path / "wdl_dense_10.model").write_bytes(ROWS[0].tobytes())
        (tmp_path / "wdl0_opt_sparse_10.model").write_bytes(b"12345")
        (tmp_path / "wdl.json").write_text("{}")
        with open_checkpoint(tmp_path) as checkpoint:
            assert_table(checkpoint, "wdl0_sparse", KEYS, ROWS)
            assert_table(checkpoint, "wdl1_sparse", KEYS[:2], ROWS[:2, :3])
            assert checkpoint.read("wdl0_sparse/slots").tolist() == SCORES.tolist()
            assert checkpoint.read("wdl_dense").tolist() == ROWS[0].tolist()
            assert checkpoint.read("wdl0_opt_sparse").tobytes() == b"12345"
            roles = {info.name: info.role for info in checkpoint.tensors}
        assert (roles["wdl_dense"], roles["wdl0_opt_sparse"]) == ("dense", "optimizer")

    @pytest.mark.parametrize(("file", "size", "match"), [
        ("key", 39, "39 bytes are no list of int64"),
        ("emb_vector", 79, "79 bytes are no 5 rows of float32"),
        ("slot_id", 48, "48 bytes of slots, not 40 for 5 keys"),
    ])  # fmt: skip
    def test_sizes_that_do_not_agree(self, tmp_path, file, size, match):
        write_table_folder(tmp_path / "users", Part(KEYS, ROWS), slots=SCORES)
        (tmp_path / "users" / file).write_bytes(bytes(size))
        with pytest.raises(Corrupt, match=f"{file}: {match}"):
            open_checkpoint(tmp_path)

    @pytest.mark.parametrize(("key_type", "value_type"), [(0, 0), (0, 1), (1, 0), (1, 1)])
    def test_an_embedding_collection(self, tmp_path, key_type, value_type):
        keys, rows = np.array([5, 2**32 - 1, 0]), np.arange(6).reshape(3, 2)
        tables = {0: Part(keys, rows), 3: Part(keys[:1], np.ones((1, 7)))}
        write_collection(tmp_path / "embedding_collection_0", tables, key_type=key_type, value_type=value_type)
        dtypes = ("uint32", "int64")[key_type], ("float32", "float16")[value_type]
        for path, prefix in ((tmp_path, "embedding_collection_0/"), (tmp_path / "embedding_collection_0", "")):
            with open_checkpoint(path) as checkpoint:
                for table, part in tables.items():
                    assert_table(checkpoint, f"{prefix}table{table}", part.keys.astype(dtypes[0]), part.rows.astype(dtypes[1]))

    @pytest.mark.parametrize(
        ("name", "at", "data", "error", "match"),
        [
            ("meta_data", 0, b"\x02\0\0\0", Corrupt, "36 bytes are no metadata of 2 tables"),
            ("meta_data", 0, b"\0\0\0\0", Corrupt, "no metadata of 0 tables"),
            ("meta_data", 0, b"\xff\xff\xff\xff", Corrupt, "no metadata of -1 tables"),
            ("meta_data", 0, b"\xff\xff\xff\x7f", Corrupt, "no metadata of 2147483647 tables"),
            ("meta_data", 4, b"\x02\0\0\0", Unsupported, "key type 2"),
            ("meta_data", 8, b"\x02\0\0\0", Unsupported, "value type 2"),
            ("meta_data", 20, b"\x07\0\0\0", NotFound, "key7"),
            ("meta_data", 24, b"\xff\xff\xff\xff\xff\xff\xff\xff", Corrupt, "not 18446744073709551615 keys"),
            ("meta_data", 24, b"\x04\0\0\0\0\0\0\0", Corrupt, "not 4 keys of int64"),
            ("meta_data", 32, b"\0\0\0\0", Corrupt, "rows of 0 elements"),
            ("meta_data", 32, b"\xff\xff\xff\x7f", Corrupt, "weight0: 80 bytes of rows, not 42949672940"),
            ("key0", 0, b"\x02\0\0\0", Corrupt, "its head says kind 2 of table 0, not 1 of 0"),
            ("weight0", 4, b"\x01\0\0\0", Corrupt, "its head says kind 2 of table 1, not 2 of 0"),
        ],
    )
    def test_a_collection_that_lies(self, tmp_path, name, at, data, error, match):
        write_collection(tmp_path, {0: Part(KEYS, ROWS)})
        whole = bytearray((tmp_path / name).read_bytes())
        whole[at : at + len(data)] = data
        (tmp_path / name).write_bytes(whole)
        with nothing_left_open(), pytest.raises(error, match=match):
            open_checkpoint(tmp_path)

    @pytest.mark.parametrize(
        ("name", "size", "match"), [("meta_data", 19, "its head has 20"), ("weight0", 127, "leaves the file")]
    )
    def test_a_collection_that_is_cut(self, tmp_path, name, size, match):
        write_collection(tmp_path, {0: Part(KEYS, ROWS)})
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:size])
        with pytest.raises(Corrupt, match=match):
            open_checkpoint(tmp_path)


def test_more_files_than_may_be_open(tmp_path, monkeypatch):
    write(tmp_path, "tfra", cuts=(2, 4))
    monkeypatch.setattr("penstock.slicer.readers.dumps.raw_tables.MAX_FILES", 5)
    with pytest.raises(Refused, match="a dump of 6 files, at most 5"):
        open_checkpoint(tmp_path)


def test_a_folder_that_may_not_be_listed_is_no_dump(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "notes").mkdir()
    with pytest.raises(Unsupported, match="without a checkpoint"):
        open_checkpoint(tmp_path)
