import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from penstock.pipeline.core.errors import Corrupt, Unsupported
from penstock.pipeline.core.records import Record, RecordKind, decode_record, encode_record, row_record_bytes

MODEL = bytes(range(16))


@st.composite
def records(draw):
    puts, deletes, width = draw(st.integers(0, 5)), draw(st.integers(0, 5)), draw(st.integers(1, 20))
    keys = draw(hnp.arrays(np.int64, puts + deletes, unique=True))
    return Record(
        kind=RecordKind.ROWS, timeline=draw(st.integers(0, 2**32 - 1)), partition=draw(st.integers(0, 2**31)),
        publisher=draw(st.text(max_size=9)), term=draw(st.integers(0, 2**64 - 1)), seq=draw(st.integers(0, 2**64 - 1)),
        trained_through=draw(st.integers(-(2**63), 2**63 - 1)), written_at=draw(st.integers(-(2**63), 2**63 - 1)),
        text=draw(st.text(max_size=9)), keys=keys, rows=draw(hnp.arrays(np.uint8, (puts, width))),
    )  # fmt: skip


def decode(payload, record):
    return decode_record(payload, model_id=MODEL, partition=record.partition, name="here")


@given(records())
def test_decoding_is_the_inverse_of_encoding(record):
    payload = encode_record(record, MODEL)
    found = decode(payload, record)
    for name in ("kind", "timeline", "partition", "publisher", "term", "seq", "trained_through", "written_at", "text"):
        assert getattr(found, name) == getattr(record, name), name
    assert found.put_keys.tolist() + found.tombstones.tolist() == record.keys.tolist()
    assert found.rows.tobytes() == record.rows.tobytes()
    width = record.rows.shape[1] if len(record.rows) else 0
    assert len(payload) == row_record_bytes(
        rows=len(record.rows), tombstones=len(record.tombstones), width=width, publisher=record.publisher, table=record.text
    )


@given(records(), st.data())
def test_invariant_12_no_damage_goes_unnoticed(record, data):
    payload = bytearray(encode_record(record, MODEL))
    cut = data.draw(st.integers(0, len(payload) - 1))
    with pytest.raises(Corrupt, match="^here: "):
        decode(bytes(payload[:cut]), record)
    payload[cut] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises((Corrupt, Unsupported), match="^here: "):
        decode(bytes(payload), record)


def test_foreign_misplaced_and_future_records_are_named():
    record = Record(kind=RecordKind.BEAT, timeline=1, partition=3)
    payload = encode_record(record, MODEL)
    with pytest.raises(Corrupt, match="belongs to model 0001"):
        decode_record(payload, model_id=bytes(16), partition=3, name="here")
    with pytest.raises(Corrupt, match="written for partition 3, not 2"):
        decode_record(payload, model_id=MODEL, partition=2, name="here")
    with pytest.raises(Unsupported, match="format 9"):
        decode(payload[:4] + b"\x09" + payload[5:], record)
