"""Folders of chunks that were made to hurt, or that a copy left incomplete: one error names the folder and the rule."""

import os
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from open_files import nothing_left_open
from torch_files import METADATA, DistributedFolder, archive, index, place, saved_tensor, tensor_archive, tensor_entry
from torch_pickles import call, instance, mapping, name, number, storage, tensor, text, tuple_of

from penstock.pipeline.core.errors import Corrupt, NotFound, Refused, Unsupported
from penstock.slicer.readers import open_checkpoint

VALUES = np.arange(24, dtype=np.float32).reshape(6, 4)
HALVES = [((0, 0), (3, 4)), ((3, 0), (3, 4))]
SYSTEM = call(name("os", "system"), text("touch RAN"))


@pytest.fixture
def made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = DistributedFolder(tmp_path / "dcp")
    folder.chunks("t", VALUES, HALVES)
    return folder


def read_all(folder):
    with open_checkpoint(folder) as checkpoint:
        return {info.name: checkpoint.read(info.name).copy() for info in checkpoint.tensors}


def refused(made, match, error=Refused):
    folder = made.write()
    with nothing_left_open(), pytest.raises(error, match=match) as found:
        read_all(folder)
    assert str(folder) in str(found.value)
    assert "\n" not in str(found.value)
    assert not os.path.exists("RAN")


def test_a_save_that_did_not_finish(made):
    folder = made.write()
    (folder / ".metadata").unlink()
    with pytest.raises(Corrupt, match=r"\.distcp files without \.metadata, .* the save did not finish"):
        open_checkpoint(folder)
    (folder / "__0.metadata").write_bytes(b"\x80\x04")
    with pytest.raises(Unsupported, match=r"every rank has metadata of its own \(__0\.metadata"):
        open_checkpoint(folder)


def test_metadata_that_is_cut_short_or_no_pickle(made):
    folder = made.write()
    whole = (folder / ".metadata").read_bytes()
    for length in [0, 1, 2, *range(3, len(whole), 97), len(whole) - 1]:
        (folder / ".metadata").write_bytes(whole[:length])
        with pytest.raises(Corrupt, match="the pickle "):
            open_checkpoint(folder)
    (folder / ".metadata").write_bytes(b"not a pickle")
    with pytest.raises(Corrupt, match="the pickle breaks"):
        open_checkpoint(folder)


def test_a_metadata_file_of_somebody_else(tmp_path):
    (tmp_path / ".metadata").write_bytes(b"\x80\x04}.")
    with pytest.raises(Unsupported, match="without a checkpoint of a known format"):
        open_checkpoint(tmp_path)


def test_a_rank_whose_file_is_missing_or_short(made):
    folder = made.write()
    data = (folder / "__1_0.distcp").read_bytes()
    (folder / "__1_0.distcp").write_bytes(data[:-1])
    with pytest.raises(Corrupt, match=r"__1_0\.distcp: what was saved of t at 0, .* leaves the file"):
        open_checkpoint(folder)
    (folder / "__1_0.distcp").unlink()
    with pytest.raises(NotFound, match=r"t is said to be in '__1_0\.distcp', which is missing"):
        open_checkpoint(folder)
    os.mkfifo(folder / "__1_0.distcp")
    with pytest.raises(NotFound, match="or no file"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    "path",
    ["/etc/hostname", "../secret.distcp", "a/../../b", "..", "a\\b", "a\0b", "line\nbreak", "", ".", "./__0_0.distcp", "a//b"],
)
def test_paths_that_leave_the_folder(made, path):
    made.places[0] = index("t", (0, 0)) + place(path, 0, 10)
    refused(made, "which is no file of this folder")


@pytest.mark.parametrize("path", ["x" * 5000, "sub/none"])
def test_paths_to_nothing(made, path):
    made.places[0] = index("t", (0, 0)) + place(path, 0, 10)
    refused(made, "which is missing or no file", NotFound)


def test_links_out_of_the_folder(made, tmp_path):
    folder = made.write()
    (folder / "__1_0.distcp").rename(tmp_path / "outside")
    (folder / "__1_0.distcp").symlink_to(tmp_path / "outside")
    with pytest.raises(Refused, match="a link that leaves the folder"):
        open_checkpoint(folder)
    (folder / "__1_0.distcp").unlink()
    (tmp_path / "outside").rename(folder / "inside")
    (folder / "__1_0.distcp").symlink_to("inside")
    assert np.array_equal(read_all(folder)["t"], VALUES)


@pytest.mark.parametrize(
    ("boxes", "match"),
    [
        ([((0, 0), (3, 4)), ((4, 0), (3, 4))], "storage_data has no place for the piece at [4, 0]"),
        ([((0, 0), (3, 4)), ((3, 0), (4, 4))], "the piece at [3, 0] of shape [4, 4] leaves the tensor"),
        ([((0, 0), (4, 4)), ((3, 0), (3, 4))], "overlap"),
        ([((0, 0), (3, 4)), ((3, 0), (2, 4))], "hold 20 of its 24 elements: a piece is missing"),
        ([((0, 0), (3, 4))], "hold 12 of its 24 elements: a piece is missing"),
        ([], "hold 0 of its 24 elements"),
        ([((0, 0), (3, 4)), ((3, 0), (3, 4, 1))], "leaves the tensor"),
        ([((0, 0), (3, 4)), ((3, 0), (2**62, 2**62))], "overflows 64 bits"),
        ([((0, 0), (3, 4)), ((3, 0), (2**64, 1))], "calls torch.Size wrongly"),
        ([((0, 0), (3, 4)), ((3, 0), (-3, 4))], "calls torch.Size wrongly"),
    ],
)
def test_chunks_that_do_not_make_up_their_tensor(made, boxes, match):
    made.entries["t"] = tensor_entry("float32", (6, 4), boxes)
    refused(made, re.escape(match), Corrupt)


@pytest.mark.parametrize(
    ("data", "match", "error"),
    [
        (tensor_archive(VALUES[:2]), r"is float32\[2, 4\], the metadata says float32\[3, 4\]", Corrupt),
        (tensor_archive(VALUES[:3].astype(np.int32)), r"is int32\[3, 4\], the metadata says float32", Corrupt),
        (tensor_archive(VALUES[:3].reshape(4, 3)), r"is float32\[4, 3\]", Corrupt),
        (archive(mapping({"t": saved_tensor(VALUES[:3])}), {"0": VALUES[:3].tobytes()}), "a dict where a piece", Corrupt),
        (archive(number(3)), "a int where a piece", Corrupt),
        (archive(saved_tensor(VALUES[:3]), {"0": bytes(44)}), "has 44 bytes, not 12 of float32", Corrupt),
        (archive(tensor(storage("FloatStorage", "0", 12), 1, (3, 4), (4, 1)), {"0": bytes(48)}), "element 12 leaves", Corrupt),
        (archive(SYSTEM), r"names the global os\.system", Refused),
        (b"\x08\0\0\0\0\0\0\0{      }", "no archive of torch.save", Unsupported),
        (b"", "no archive of torch.save", Unsupported),
        (tensor_archive(VALUES[:3])[:-1], "without its end record", Corrupt),
        (b"PK\x03\x04" + bytes(100), "without its end record", Corrupt),
    ],
)
def test_pieces_that_are_not_what_the_metadata_says(made, data, match, error):
    made.files["__0_0.distcp"][:] = data
    made.places[0] = index("t", (0, 0)) + place("__0_0.distcp", 0, len(data))
    refused(made, match, error)


@pytest.mark.parametrize(("offset", "length"), [(0, 10**6), (10**6, 1), (2**63 - 1, 1), (1, 2**63 - 1), (-1, 10), (2**64, 1)])
def test_places_that_leave_their_file(made, offset, length):
    made.places[0] = index("t", (0, 0)) + place("__0_0.distcp", offset, length)
    refused(made, "leaves the file|its place is no path, offset and length", Corrupt)


def test_transforms_are_named(made):
    made.places[0] = index("t", (0, 0)) + place("__0_0.distcp", 0, 10, transform_descriptors=b"](" + text("stream.zstd/1") + b"e")
    refused(made, "t was written through stream.zstd/1", Unsupported)


OBJECT = name(METADATA, "BytesStorageMetadata") + b")\x81"


def entry(state):
    return instance(METADATA, "TensorStorageMetadata", mapping(state))


@pytest.mark.parametrize(
    ("more", "match"),
    [
        ({"planner_data": SYSTEM}, r"names the global os\.system"),
        ({"storage_meta": name("my.trainer", "Meta") + b")\x81"}, r"names the global my\.trainer\.Meta"),
        ({"storage_meta": storage("FloatStorage", "0", 1)}, "a persistent id where a plain value belongs"),
        ({"state_dict_metadata": b"]"}, "no state_dict_metadata"),
        ({"storage_data": b"N"}, "no storage_data"),
        ({"storage_data": mapping({"t": number(1)})}, "a str where a MetadataIndex"),
        ({"state_dict_metadata": mapping({"t": number(1)})}, "a int where a TensorStorageMetadata"),
        ({"state_dict_metadata": mapping({"t": entry({})})}, "t: its size: a shape or strides that are no tuple"),
        ({"state_dict_metadata": mapping({"t": entry({"size": tuple_of(number(2))})})}, "t: no list of chunks"),
        ({"state_dict_metadata": mapping({"t": entry({"size": b")", "chunks": b"]"})})}, "t: properties without a dtype"),
        ({"state_dict_metadata": mapping({"t": OBJECT})}, "no place for the piece at no"),
        ({"state_dict_metadata": b"}" + number(5) + number(1) + b"s"}, "an entry whose name is no text"),
        ({"state_dict_metadata": mapping({"t": name(METADATA, "Metadata") + b"}\x81"})}, "a dict where a tuple belongs"),
        ({"state_dict_metadata": mapping({"t": call(name(METADATA, "Metadata"), number(1))})}, "calls .*Metadata wrongly"),
    ],
)  # fmt: skip
def test_metadata_that_makes_no_sense(made, more, match):
    folder = made.write()
    (folder / ".metadata").write_bytes(made.metadata(**more))
    with pytest.raises(Refused, match=match) as error:
        open_checkpoint(folder)
    assert str(folder) in str(error.value)


def test_two_places_for_one_piece(made):
    made.places.append(made.places[0])
    refused(made, r"two places for the piece at \[0, 0\]", Corrupt)


def test_pieces_that_share_bytes(made):
    made.places[0] = index("t", (0, 0)) + place("__0_0.distcp", 0, 20)
    made.places.append(index("u", (0,)) + place("__0_0.distcp", 19, 1))
    refused(made, r"two pieces overlap in '__0_0\.distcp' at 19", Corrupt)


def test_metadata_of_another_class_altogether(made):
    folder = made.write()
    (folder / ".metadata").write_bytes(b"\x80\x02" + instance(METADATA, "StorageMeta", b"}") + b".")
    with pytest.raises(Corrupt, match="a StorageMeta where a Metadata"):
        open_checkpoint(folder)


def test_objects_that_would_run_code(made):
    made.object("loader", SYSTEM)
    refused(made, r"names the global os\.system")


def test_more_files_than_any_save_has(made, monkeypatch):
    monkeypatch.setattr("penstock.slicer.readers.torch.torch_distributed.MAX_FILES", 5)
    for i in range(6):
        made.piece("u", (i,), tensor_archive(np.zeros(1, np.float32)), f"__{i}_0.part")
    made.entries["u"] = tensor_entry("float32", (6,), [((i,), (1,)) for i in range(6)])
    refused(made, "more than 5 files")


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_damage_is_refused_or_leaves_plain_arrays(tmp_path_factory, data):
    made = DistributedFolder(tmp_path_factory.mktemp("damaged"))
    made.chunks("t", VALUES, HALVES)
    made.object("step", number(3))
    folder = made.write()
    file = folder / data.draw(st.sampled_from([".metadata", "__0_0.distcp"]))
    damaged = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    file.write_bytes(damaged)
    try:
        found = read_all(folder)
    except (Refused, NotFound):
        return
    assert sum(values.nbytes for values in found.values()) < 10_000
