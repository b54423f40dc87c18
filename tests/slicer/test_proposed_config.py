"""The proposal is a config: whatever tensors are called, what it names is what it was made from."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.pipeline.config import parse_config
from penstock.publishers.table_reading import Reading
from penstock.slicer.proposals import Headers, ProposedTable, TableTensors, Vocabulary, propose
from penstock.slicer.proposed_config import toml_of
from penstock.slicer.readers import TensorInfo
from penstock.slicer.readers.files.mapped_file import MappedFile
from penstock.slicer.readers.roles import role_of
from penstock.slicer.readers.stored_checkpoint import StoredCheckpoint
from penstock.slicer.readers.tensors.held import HeldTensor

TOP = '[store]\nurl = "file:///s"\n[log]\nurl = "file:///l"\n'
STEMS = st.one_of(
    st.sampled_from(["emb", "user.emb", "a/item_embedding", 'emb"q"', "emb\\", "emb*", "emb\x7f\x01é😀"]), st.text()
)
NAMES = st.builds(
    "{}{}".format, STEMS,
    st.sampled_from(["", "/keys", "/rows", "-keys", "-values", "/deleted", "/part_0", "/part_1", "/part_2-keys", "/part_2-values",
                     "_1of2", "_2of2", "_vocab"]),
)  # fmt: skip
ARRAYS = st.sampled_from([(np.float32, (4, 2)), (np.float32, (4, 3)), (np.float16, (4, 2)), (np.int64, (4,)), (np.int32, (3,)),
                          (np.float32, ())])  # fmt: skip


def held(name, values):
    role = role_of(name, values.shape, values.dtype.name)
    return HeldTensor(TensorInfo(name=name, shape=values.shape, dtype=values.dtype.name, role=role, nbytes=values.nbytes), values)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "checkpoint"
    path.write_bytes(b"x")
    return path


@given(st.dictionaries(NAMES, ARRAYS, max_size=8))
@settings(max_examples=300, deadline=None)
def test_publish_finds_the_tensors_that_inspect_proposed(file, arrays):
    sources = [held(name, np.zeros(shape, dtype)) for name, (dtype, shape) in arrays.items()]
    with StoredCheckpoint("test", sources, [MappedFile(file)]) as checkpoint:
        proposal = propose(checkpoint.tensors, Headers())
        tables = parse_config(TOP + "[models.shop]\n" + toml_of("shop", proposal.tables), "proposed").models["shop"].tables
        assert [*tables] == [table.name for table in proposal.tables]
        read = Reading(checkpoint, file)
        for table in proposal.tables:
            before = set(read.used)
            found = read.table(table.name, tables[table.name])
            assert (found.rows, found.dim) == (table.rows, table.dim)
            assert not before & (read.used - before), "no tensor is in two tables"
        uses = {name for name, use in proposal.uses.items() if use.startswith(("table ", "keys of ", "vocabulary of "))}
        assert read.used == uses


@pytest.mark.parametrize(
    "config",
    [
        TableTensors(tensor="a"),
        TableTensors(tensor=["a", 'b"\\\n']),
        TableTensors(tensor="a", vocabulary="ids.npz#a", key_type="int64"),
        TableTensors(keys="k", rows="r", delta={"keys": ["k"], "rows": "r", "deleted": None}),
        TableTensors(keys="k", rows="r", delta={"keys": "k", "rows": "r", "deleted": "d\x7f"}),
    ],
)
def test_every_field_comes_back(config):
    config = msgspec.convert(msgspec.to_builtins(config), TableTensors)
    table = ProposedTable(name="t", rows=2, dim=3, nbytes=24, parts=2, why="", config=config)
    found = parse_config(TOP + toml_of("a model", [table]).replace('"a model"', "m"), "proposed").models["m"].tables["t"]
    assert {name: getattr(found, name) for name in config.__struct_fields__} == {
        name: getattr(config, name) for name in config.__struct_fields__
    }


def test_it_reads_well():
    tensors = [TensorInfo(name=f"user/part_{n}", shape=(5, 2), dtype="float32", role="embedding", nbytes=40) for n in range(2)]
    assert toml_of("NAME", propose(tensors, Headers()).tables) == (
        "[models.NAME.tables.user]\n"
        'tensor = "user/part_*"  # 2 parts, 10 x 2\n'
        '# partition = "modulo"  # if row r of part i of n is number r * n + i, as by TensorFlow\'s "mod"\n'
    )
    assert toml_of("NAME", []) == ""


def test_a_vocabulary_is_named():
    class Beside(Headers):
        def vocabulary(self, fits, rows):
            return Vocabulary(name="ids.npz#user", first=(b"1",))

    found = propose([TensorInfo(name="user.weight", shape=(5, 2), dtype="float32", role="embedding", nbytes=40)], Beside())
    assert toml_of("shop", found.tables).splitlines()[2:] == ['vocabulary = "ids.npz#user"', 'key_type = "int64"']
