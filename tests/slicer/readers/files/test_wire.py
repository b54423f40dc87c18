"""Protocol buffers against the ONNX package's own, and against every lie that a message can tell."""

import struct

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.pipeline.core.errors import Corrupt
from penstock.slicer.readers.files import wire
from penstock.slicer.readers.files.mapped_file import MappedFile
from penstock.slicer.readers.files.wire import BYTES, FIXED32, FIXED64, MAX_DEPTH, VARINT, Source, decode_varints

INT64 = st.integers(-(2**63), 2**63 - 1)


@pytest.fixture
def opened(tmp_path):
    files = []

    def open_(data):
        path = tmp_path / f"{len(files)}.bin"
        path.write_bytes(data)
        files.append(MappedFile(path))
        return files[-1]

    yield open_
    for file in files:
        file.close()


def fields(data):
    return [tuple(each) for each in Source(data, "data").message().fields()]


@settings(max_examples=100, deadline=None)
@given(dims=st.lists(INT64), floats=st.lists(st.floats(width=32, allow_nan=False)), raw=st.binary(), name=st.text(min_size=1))
def test_what_the_onnx_package_writes(dims, floats, raw, name):
    proto = onnx.TensorProto(dims=dims, float_data=floats, int64_data=dims, raw_data=raw, name=name, data_type=1)
    data = proto.SerializeToString()
    message = Source(data, "tensor").message()
    found = {"dims": [], "int64_data": [], "float_data": []}
    for field in message.fields():
        if field.number in {1, 7}:
            found["dims" if field.number == 1 else "int64_data"] += message.numbers(field)
        elif field.number == 2:
            found["data_type"] = message.integer(field)
        elif field.number == 4:
            found["float_data"] = list(struct.unpack(f"<{field.value // 4}f", data[field.offset : field.offset + field.value]))
        elif field.number == 8:
            found["name"] = message.text(field)
        elif field.number == 9:
            found["raw_data"] = message.data(field)
    assert found["dims"] == dims
    assert found["int64_data"] == dims
    assert found["float_data"] == floats
    assert (found["name"], found["data_type"], found["raw_data"]) == (name, 1, raw)


def test_fields_of_every_kind_and_where_they_lie():
    data = b"\x08\x96\x01" + b"\x11" + bytes(range(8)) + b"\x1a\x03abc" + b"\x25" + b"\1\0\0\0"
    assert fields(data) == [
        (1, VARINT, 150, 1),
        (2, FIXED64, int.from_bytes(bytes(range(8)), "little"), 4),
        (3, BYTES, 3, 14),
        (4, FIXED32, 1, 18),
    ]


def test_a_large_field_of_a_file_is_located_and_not_read(opened):
    payload = 5 << 20
    data = b"\x0a\x03abc" + b"\x12" + wire_varint(payload) + b"\xff" * payload + b"\x1a\x02hi"
    source = Source(opened(data))
    message = source.message()
    first, second, third = message.fields()
    assert (first.offset, second.value, third.value) == (2, payload, 2)
    assert data[second.offset : second.offset + 3] == b"\xff" * 3
    assert message.text(third) == "hi"
    assert message.text(first) == "abc"
    assert message.data(second) == b"\xff" * payload


def test_messages_in_a_file_are_read_in_any_nesting(opened):
    inner = b"".join(onnx.StringStringEntryProto(key=f"k{i}", value="v" * 500).SerializeToString() for i in range(300))
    data = b"".join(b"\x0a" + wire_varint(len(inner)) + inner for _ in range(2))
    whole = Source(opened(data)).message()
    keys = [[whole.child(each).text(one) for one in whole.child(each).fields() if one.number == 1] for each in whole.fields()]
    assert keys == [[f"k{i}" for i in range(300)]] * 2


def wire_varint(value):
    return bytes([*(value >> 7 * i & 0x7F | 0x80 for i in range((max(value.bit_length(), 1) - 1) // 7)),
                  value >> 7 * ((max(value.bit_length(), 1) - 1) // 7)])  # fmt: skip


@given(values=st.lists(st.integers(0, 2**64 - 1)))
def test_packed_numbers(values):
    data = b"".join(map(wire_varint, values))
    assert decode_varints(data, "data").tolist() == values


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"\x08", "no number at 1"),
        (b"\x80", "no number at 0"),
        (b"\x08" + b"\xff" * 9 + b"\x02", "beyond 64 bits"),
        (b"\x08" + b"\x80" * 11 + b"\x00", "no number at 1"),
        (b"\x00\x01", "field number 0"),
        (b"\x80\x80\x80\x80\x10\x01", f"field number {2**29}"),
        (b"\x0b", "of kind 3"),
        (b"\x0c", "of kind 4"),
        (b"\x0e\x00", "of kind 6"),
        (b"\x0a\x05abcd", "ends at 7, its message at 6"),
        (b"\x0a" + b"\xff" * 9 + b"\x01", "its message at 11"),
        (b"\x09" + bytes(7), "its message at 8"),
        (b"\x0d" + bytes(3), "its message at 4"),
    ],
)
def test_lies_are_told_by_their_place(opened, data, match):
    with pytest.raises(Corrupt, match=match):
        fields(data)
    with pytest.raises(Corrupt, match=match):
        list(Source(opened(data)).message().fields())


def test_a_field_inside_a_message_may_not_leave_it():
    message = Source(b"\x0a\x02\x0a\x05\x0a\x05abcde", "data").message()
    first = next(message.fields())
    with pytest.raises(Corrupt, match="its message at 4"):
        list(message.child(first).fields())


def test_messages_have_a_depth_and_sources_a_number_of_fields(monkeypatch):
    data = b""
    for _ in range(MAX_DEPTH + 1):
        data = b"\x0a" + wire_varint(len(data)) + data
    message = Source(data, "deep").message()
    with pytest.raises(Corrupt, match="messages 100 deep"):  # noqa: PT012
        while True:
            message = message.child(next(message.fields()))
    monkeypatch.setattr(wire, "MAX_FIELDS", 3)
    with pytest.raises(Corrupt, match="more than 3 fields"):
        fields(b"\x08\x01" * 4)


def test_fields_are_taken_as_what_they_are():
    message = Source(b"\x08\x01\x12\x02\xff\xfe\x1d\1\0\0\0", "data").message()
    number, text, fixed = message.fields()
    for read, field in ((message.data, number), (message.text, fixed), (message.integer, text), (message.child, number)):
        with pytest.raises(Corrupt, match="is of kind"):
            read(field)
    with pytest.raises(Corrupt, match="is no text"):
        message.text(text)
    with pytest.raises(Corrupt, match="is of kind"):
        message.fixed32(number)
    assert message.fixed32(fixed) == 1
    with pytest.raises(Corrupt, match="leaves its"):
        message.source.message(5, 12)


@pytest.mark.parametrize("data", [b"\x80", b"\x01\xff", b"\x80" * 10 + b"\x01", b"\xff" * 9 + b"\x02"])
def test_packed_numbers_that_do_not_end_or_are_too_large(data):
    with pytest.raises(Corrupt, match="does not end|beyond 64 bits"):
        decode_varints(data, "data")


def test_no_packed_numbers():
    assert decode_varints(b"", "data").dtype == np.uint64
    assert len(decode_varints(b"", "data")) == 0
