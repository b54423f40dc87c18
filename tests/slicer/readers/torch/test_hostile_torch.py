"""Archives that were made to hurt: nothing runs, nothing is allocated that the file does not hold, one error names the rule."""

import os
import pickle
import zipfile
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_pickles import call, mapping, name, number, storage, tensor, text, tuple_of, write_archive

from penstock.pipeline.core.errors import Corrupt, Refused
from penstock.slicer.readers import open_checkpoint
from penstock.slicer.readers.torch import pickle_machine


class Runs:
    """Pickles as a call, as anyone would write an attack."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def refused(tmp_path, body, match, error=Refused, storages=None):
    path = tmp_path / "model.pt"
    write_archive(path, body, storages)
    with pytest.raises(error, match=match) as found:
        open_checkpoint(path)
    assert str(path) in str(found.value)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    ("function", "arguments", "shown"),
    [
        (os.system, ("touch RAN",), r"(posix|nt)\.system"),
        (eval, ("open('RAN', 'w')",), r"builtins\.eval"),
        (exec, ("open('RAN', 'w')",), r"builtins\.exec"),
        (getattr, ("x", "join"), r"builtins\.getattr"),
        (__import__, ("os",), r"builtins\.__import__"),
        (open, ("RAN", "w"), r"(_?io|builtins)\.open"),
        (pickle.loads, (b"N.",), r"_?pickle\.loads"),
    ],
)
def test_a_call_of_anything_else_is_refused_by_name(tmp_path, monkeypatch, protocol, function, arguments, shown):
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile("model.pt", "w") as archive:
        archive.writestr("model/data.pkl", pickle.dumps({"model": Runs(function, *arguments)}, protocol))
    with pytest.raises(Refused, match=f"names the global {shown}, which is not among the harmless ones"):
        open_checkpoint(tmp_path / "model.pt")
    assert os.listdir(tmp_path) == ["model.pt"]


def test_eval_through_getattr_and_through_harmless_names(tmp_path):
    got = call(name("builtins", "getattr"), call(name("builtins", "__import__"), text("builtins")), text("eval"))
    refused(tmp_path, call(got, text("1")), r"builtins\.getattr")
    for dotted in ("OrderedDict.__init__.__globals__", "OrderedDict.fromkeys"):
        refused(tmp_path, call(name("collections", dotted)), rf"collections\.{dotted}")
    refused(tmp_path, name("torch", "FloatStorage.__reduce__"), "FloatStorage.__reduce__")
    refused(tmp_path, text("collections.OrderedDict") + text("fromkeys") + b"\x93", "fromkeys")


def test_a_result_is_never_called(tmp_path):
    nested = call(call(name("collections", "OrderedDict")), text("x"))
    refused(tmp_path, nested, "calls a dict")
    refused(tmp_path, call(call(name("torch", "Size"), b")"), text("x")), "calls a tuple")
    refused(tmp_path, call(name("torch", "FloatStorage"), number(8)), r"calls torch\.FloatStorage")
    rebuild = call(name("torch._tensor", "_rebuild_from_type_v2"), name("numpy", "ndarray"), name("torch", "Tensor"), b")", b"N")
    refused(tmp_path, rebuild, "rebuilds tensors only", Corrupt)


@pytest.mark.parametrize(
    ("body", "match"),
    [
        (b"(i__builtin__\neval\n", "opcode INST"),
        (b"(" + name("torch", "Tensor") + b"o", "opcode OBJ"),
        (b"\x82\x01", "opcode EXT1"),
        (b"Pspam\n", "opcode PERSID"),
        (name("torch", "Tensor") + b")}\x92", "opcode NEWOBJ_EX"),
        (b"\x97", "opcode NEXT_BUFFER"),
        (text("x") + mapping({"a": b"N"}) + b"b", "sets the state of a str"),
        (name("torch", "Tensor") + b"}b", "sets the state of a Global"),
        (name("torch", "Tensor") + b")\x81", r"calls torch\.Tensor"),
    ],
)
def test_other_ways_to_make_objects_are_refused(tmp_path, body, match):
    refused(tmp_path, body, match)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"0",
        b"t",
        b"R",
        b"NN",
        b"(",
        b"h\x07",
        b"Q",
        text("x") + b"Q",
        tuple_of(text("storage"), name("torch", "Tensor"), text("0"), text("cpu"), number(1)) + b"Q",
        tuple_of(text("storage"), name("torch", "FloatStorage"), text("0"), text("cpu"), number(-1)) + b"Q",
        b"}(" + text("a") + b"u",
        b"}(}Nu",
        b"})Ns",
        b"N" + text("x") + b"a",
        text("x") + number(4) + b"R",
        call(name("torch._utils", "_rebuild_tensor_v2"), number(1)),
        b"X\xff\xff\xff\xffabc",
        b"\x8b\xff\xff\xff\x7f\x01",
        b"\x8a\xff" + b"\x01" * 255,
        b"I" + b"9" * 5000 + b"\n",
        b"\xff",
        b"1",
        b"(1(1",
        b"2",
        b"q\x00",
        b"\x94",
        b"a",
        b"s",
        b"u",
        b"e",
        b"\x90",
        b"b",
        b"]b",
        b"\x81",
        b"N\x86",
        b"g-1\n",
        b"g99999999999999999999\n",
        b"j\xff\xff\xff\xff",
        b"Nq\x00h\x01",
        b"Np" + b"9" * 5000 + b"\n",
        b"\x95" + b"\xff" * 8 + b"N",
        b"\x95" + (3).to_bytes(8, "little") + b"N",
        b"\x96" + b"\xff" * 8,
        b"\x8e" + (2**63 - 1).to_bytes(8, "little"),
        b"\x8d" + (2**40).to_bytes(8, "little"),
        b"B\xff\xff\xff\xff",
        b"T\xff\xff\xff\xff",
        b"F1e\n",
        b"S'open\n",
    ],
)
def test_a_pickle_that_makes_no_sense_is_corrupt(tmp_path, body):
    refused(tmp_path, body, "the pickle ", Corrupt)


HUGE = 2**62


@pytest.mark.parametrize(
    ("value", "match"),
    [
        (tensor(storage("FloatStorage", "1", 6), 0, (6,), (1,)), "no zip member model/data/1"),
        (tensor(storage("FloatStorage", "../../data.pkl", 6), 0, (6,), (1,)), r"no zip member model/data/\.\./"),
        (tensor(storage("FloatStorage", "0", 7), 0, (6,), (1,)), "has 24 bytes, not 7 of float32"),
        (tensor(storage("FloatStorage", "0", 2**63 - 1), 0, (6,), (1,)), "has 24 bytes, not 9223372036854775807"),
        (tensor(storage("DoubleStorage", "0", 6), 0, (6,), (1,)), "has 24 bytes, not 6 of float64"),
        (tensor(storage("FloatStorage", "0", 6), 1, (6,), (1,)), "element 6 leaves its storage of 6"),
        (tensor(storage("FloatStorage", "0", 6), 0, (2, 3), (4, 1)), "element 6 leaves its storage of 6"),
        (tensor(storage("FloatStorage", "0", 6), 0, (2,), (HUGE,)), f"element {HUGE} leaves its storage of 6"),
        (tensor(storage("FloatStorage", "0", 6), HUGE, (1,), (1,)), f"element {HUGE} leaves its storage of 6"),
        (tensor(storage("FloatStorage", "0", 6), 0, (HUGE, HUGE), (0, 0)), "overflows 64 bits"),
        (tensor(storage("FloatStorage", "0", 6), 0, (0, HUGE), (1, 1)), "overflows 64 bits"),
        (tensor(storage("FloatStorage", "0", 6), 0, (2**40, 6), (0, 1)), "elements overlap"),
        (tensor(storage("FloatStorage", "0", 6), 0, (2, 3), (1,)), "2 dimensions, 1 strides"),
        (tensor(storage("FloatStorage", "0", 6), -1, (6,), (1,)), "a int where a count"),
        (tensor(storage("FloatStorage", "0", 6), 0, (-6,), (1,)), "a int where a count"),
        (tensor(storage("FloatStorage", "0", 6), 5, (6,), (-1,)), "a int where a count"),
        (tensor(storage("FloatStorage", "0", 6), 0, (2**64,), (1,)), "a int where a count"),
        (tensor(storage("FloatStorage", "0", 6), 0, (1,) * 33, (1,) * 33), "at most 32"),
        (tensor(storage("FloatStorage", "0", 6), 0, (), (), name("torch", "strided")), "the global torch.strided"),
    ],
)
def test_tensors_that_leave_their_storage(tmp_path, value, match):
    refused(tmp_path, mapping({"t": value}), match, storages={"0": bytes(24)})


def test_values_that_unfold_without_end(tmp_path):
    doubling = b"]q\x00" + b"".join(b"](h" + bytes([i]) + b"h" + bytes([i]) + b"eq" + bytes([i + 1]) for i in range(60))
    refused(tmp_path, b"(" + doubling + b"l", "holds more than", Corrupt)
    refused(tmp_path, b"]q\x00h\x00a", "nests", Corrupt)
    refused(tmp_path, b"](" * 100_000 + b"e" * 100_000, "nests", Corrupt)
    refused(tmp_path, b"(" * 100_000 + b"t" * 100_000, "nests", Corrupt)
    long = b"](" * 20 + number(1) + b"e" * 20
    for _ in range(20):
        long = mapping({"k" * 4000: long})
    refused(tmp_path, long, "called too long", Corrupt)


DOUBLED = b")" + b"2\x86" * 200
"""A tuple in a tuple, each twice in the next: a value of 400 bytes that no memory could hold when it is written out."""


@pytest.mark.parametrize(
    ("body", "match"),
    [
        (DOUBLED, "holds more than"),
        (DOUBLED + b"\x85" * 10, "holds more than"),
        (b"]" + b"2q\x00h\x00h\x00\x87" * 100, None),
        (mapping({"t": b"}" + DOUBLED + b"Ns"}), "a tuple as a key"),
        (b"\x8f(" + DOUBLED + b"\x90", "a tuple as a key"),
        (tensor(DOUBLED, 0, (1,), (1,)), "a tensor without a storage"),
        (DOUBLED + b"Q", "names no storage"),
        (call(name("torch", "Size"), DOUBLED), "a tuple where a count"),
        (call(name("torch", "Size"), b"]" + DOUBLED + b"a"), "a tuple where a count"),
        (call(name("collections", "OrderedDict"), b"](" + tuple_of(DOUBLED, b"N") + b"e"), "pairs of a key"),
        (call(name("numpy", "dtype"), DOUBLED), "a dtype that is none of numbers"),
        (call(name("numpy", "dtype"), text("f4")) + tuple_of(number(3), DOUBLED) + b"b", "has no byte order"),
        (call(name("_codecs", "encode"), text("x"), DOUBLED), "bytes of latin1 text only"),
        (
            call(name("numpy._core.multiarray", "_reconstruct"), name("numpy", "ndarray"))
            + tuple_of(number(1), tuple_of(DOUBLED), call(name("numpy", "dtype"), text("f4")), b"\x89", text("abcd"))
            + b"b",
            "has no shape or no dtype",
        ),
        (
            call(
                name("numpy._core.numeric", "_frombuffer"), text("abcd"), call(name("numpy", "dtype"), text("f4")), b")", DOUBLED
            ),
            "without a dtype, a shape or an order",
        ),
    ],
)
def test_values_that_double_are_never_hashed_printed_or_unfolded(tmp_path, body, match):
    if match is None:
        path = tmp_path / "model.pt"
        write_archive(path, b"(" + body + b"t0N")
        with open_checkpoint(path) as checkpoint:
            assert checkpoint.tensors == ()
    else:
        refused(tmp_path, body, match, Corrupt)


COPIES = {
    "text to bytes": (text("x" * 10_000), call(name("_codecs", "encode"), b"h\x00", text("latin1"))),
    "a dict": (mapping({str(i): b"N" for i in range(100)}), call(name("collections", "OrderedDict"), b"h\x00")),
    "an array": (
        text("x" * 10_000),
        call(
            name("numpy._core.numeric", "_frombuffer"), b"h\x00", call(name("numpy", "dtype"), text(">f4")),
            tuple_of(number(2500)), text("C"),
        ),
    ),
    "an array by its state": (
        text("x" * 10_000),
        call(name("numpy._core.multiarray", "_reconstruct"), name("numpy", "ndarray"))
        + tuple_of(number(1), tuple_of(number(2500)), call(name("numpy", "dtype"), text(">f4")), b"\x89", b"h\x00")
        + b"b",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", COPIES)
def test_calls_that_copy_a_long_value_again_and_again(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(pickle_machine, "MAX_MADE_BYTES", 100_000)
    value, copied = COPIES[kind]
    few = b"(" + value + b"q\x00" + copied * 5 + b"t0]"
    write_archive(tmp_path / "few.pt", few)
    with open_checkpoint(tmp_path / "few.pt") as checkpoint:
        assert checkpoint.tensors == ()
    refused(tmp_path, b"(" + value + b"q\x00" + copied * 20 + b"t0]", "what the pickle makes has more than 100000 bytes", Corrupt)


@pytest.mark.parametrize("code", ["O", "V8", "S8", "U4", "M8[s]", "f4,i4", "(9,9)f4", "...", "f3", "a1b2", "f999", "{}", ""])
def test_dtypes_that_are_none_of_numbers(tmp_path, code):
    refused(tmp_path, call(name("numpy", "dtype"), text(code)), "calls numpy.dtype wrongly", Corrupt)


def test_a_memo_index_without_bound_costs_nothing(tmp_path):
    write_archive(tmp_path / "model.pt", b"}r\xff\xff\xff\xff0j\xff\xff\xff\xff")
    with open_checkpoint(tmp_path / "model.pt") as checkpoint:
        assert checkpoint.tensors == ()


def test_names_cannot_write_to_the_terminal(tmp_path):
    body = text("os\x1b[2J") + text("sys\ntem") + b"\x93"
    refused(tmp_path, body, r"names the global 'os\\x1b\[2J\.sys\\ntem', which")


def test_an_archive_without_or_with_two_pickles(tmp_path):
    path = tmp_path / "model.pt"
    write_archive(path, mapping({}))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("other/data.pkl", b"\x80\x02}.")
    with pytest.raises(Refused):
        open_checkpoint(path)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    path = tmp_path_factory.mktemp("small") / "model.pt"
    tensors = {key: tensor(storage("FloatStorage", key, 6), 0, (2, 3), (3, 1)) for key in ("0", "1")}
    write_archive(path, mapping({"model": mapping(tensors), "lr": number(0.5)}), {"0": bytes(24), "1": b"\x01" * 24})
    return path.read_bytes()


def read_all(path):
    with open_checkpoint(path) as checkpoint:
        return {info.name: checkpoint.read(info.name).copy() for info in checkpoint.tensors}


def test_cut_short_at_any_length(tmp_path, small):
    path = tmp_path / "model.pt"
    path.write_bytes(small)
    assert len(read_all(path)) == 3
    for length in range(len(small)):
        path.write_bytes(small[:length])
        with pytest.raises(Refused):
            read_all(path)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_damage_is_refused_or_leaves_plain_arrays(tmp_path_factory, small, data):
    damaged = bytearray(small)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(small) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "model.pt"
    path.write_bytes(damaged)
    try:
        found = read_all(path)
    except Refused:
        return
    assert sum(values.nbytes for values in found.values()) <= len(small)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_damage_inside_the_pickle_whose_checksum_is_right(tmp_path_factory, data):
    body = mapping({"t": tensor(storage("FloatStorage", "0", 6), 0, (2, 3), (3, 1)), "lr": number(0.5)})
    damaged = bytearray(body)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "model.pt"
    write_archive(path, bytes(damaged), {"0": bytes(24)})
    try:
        found = read_all(path)
    except Refused:
        return
    assert sum(values.nbytes for values in found.values()) <= 1000


def test_the_checksum_of_the_pickle_is_verified(tmp_path, small):
    at = small.index(b"X\x05\x00\x00\x00model")
    path = tmp_path / "model.pt"
    path.write_bytes(small[: at + 5] + b"nodel" + small[at + 10 :])
    with pytest.raises(Corrupt, match="differs from its size or checksum"):
        open_checkpoint(path)
    assert zlib.crc32(small) != zlib.crc32(path.read_bytes())
