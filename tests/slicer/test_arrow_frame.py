"""The files are Arrow files, whatever reads them."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.pipeline.core.errors import Corrupt
from penstock.slicer.arrow_frame import ALIGNMENT, decoded_schema, encoded_schema, frame, schema_length


def schema_of(width: int, metadata: dict[str, str]) -> pa.Schema:
    row = [pa.field("row", pa.binary(width), nullable=False)] if width else []
    return pa.schema([pa.field("key", pa.int64(), nullable=False), *row], metadata=metadata)


@settings(deadline=None, max_examples=60)
@given(rows=st.integers(1, 200), width=st.integers(0, 70), metadata=st.dictionaries(st.text(), st.text(), max_size=3))
def test_arrow_reads_what_the_frame_surrounds(rows, width, metadata):
    schema = schema_of(width, metadata)
    message = encoded_schema(schema)
    built = frame(message, rows=rows, width=width)
    keys = pa.array(range(-5, rows - 5), pa.int64())
    values = [bytes([i % 251]) * width for i in range(rows)]
    data = bytearray(built.size)
    data[: len(built.head)] = built.head
    data[built.keys_at : built.keys_at + 8 * rows] = keys.buffers()[1].to_pybytes()[: 8 * rows]
    data[built.rows_at : built.rows_at + rows * width] = b"".join(values)
    data[built.tail_at :] = built.tail
    columns = [keys, pa.array(values, pa.binary(width))] if width else [keys]
    expected = pa.Table.from_arrays(columns, schema=schema)
    for opened in (pa.ipc.open_file(pa.py_buffer(bytes(data))), pa.ipc.open_stream(pa.py_buffer(bytes(data[8:])))):
        table = opened.read_all()
        table.validate(full=True)
        assert table.equals(expected, check_metadata=True)
    assert built.keys_at % ALIGNMENT == 0
    assert built.rows_at % ALIGNMENT == 0


def test_the_schema_comes_back_from_the_head():
    message = encoded_schema(schema_of(8, {"a": "b"}))
    head = frame(message, rows=1, width=8).head
    assert schema_length(head[:16], "run") == len(message)
    assert decoded_schema(head[8 : 8 + len(message)], "run").equals(schema_of(8, {"a": "b"}), check_metadata=True)


@pytest.mark.parametrize("head", [b"", b"ARROW1\0\0", b"ARROW2\0\0" + b"\xff" * 4 + b"\1\0\0\0", b"ARROW1\0\0" + b"\xff" * 8])
def test_what_is_no_arrow_file_is_refused(head):
    with pytest.raises(Corrupt, match="run-7"):
        schema_length(head, "run-7")


@pytest.mark.parametrize("message", [b"", b"\xff\xff\xff\xff\x08\0\0\0" + b"\x11" * 8, b"x" * 64])
def test_what_is_no_schema_is_refused(message):
    with pytest.raises(Corrupt, match="run-7"):
        decoded_schema(message, "run-7")
