"""Files of touched keys: numbers, or texts that are hashed."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penstock.pipeline.core.errors import NotFound, Refused
from penstock.pipeline.core.text_keys import hash_text
from penstock.publishers.touched_files import read_touched


def test_files_of_touched_keys(tmp_path):
    np.savez(tmp_path / "a.npz", item=np.array([3, 1, 3]), user=np.array([], np.int32))
    assert {t: k.tolist() for t, k in read_touched(tmp_path / "a.npz").items()} == {"item": [1, 3], "user": []}
    np.save(tmp_path / "a.npy", np.array([7, 5], np.uint32))
    assert {t: k.tolist() for t, k in read_touched(tmp_path / "a.npy").items()} == {"": [5, 7]}
    pq.write_table(pa.table({"key": [4, 2, 4], "table": ["b", "a", "b"]}), tmp_path / "a.parquet")
    assert {t: k.tolist() for t, k in sorted(read_touched(tmp_path / "a.parquet").items())} == {"a": [2], "b": [4]}
    pq.write_table(pa.table({"key": [4, 2]}), tmp_path / "b.parquet")
    assert {t: k.tolist() for t, k in read_touched(tmp_path / "b.parquet").items()} == {"": [2, 4]}


def test_texts_are_hashed(tmp_path):
    words = ["anna", "zoë", "anna"]
    expected = sorted(hash_text(word) for word in set(words))
    np.savez(tmp_path / "a.npz", item=np.array(words), user=np.array([b"anna"]))
    assert {t: k.tolist() for t, k in read_touched(tmp_path / "a.npz").items()} == {"item": expected, "user": [hash_text("anna")]}
    pq.write_table(pa.table({"key": words, "table": ["b", "b", "b"]}), tmp_path / "a.parquet")
    assert {t: k.tolist() for t, k in read_touched(tmp_path / "a.parquet").items()} == {"b": expected}


def test_files_that_hold_no_touched_keys(tmp_path):
    np.savez(tmp_path / "floats.npz", item=np.array([1.5]))
    np.savez(tmp_path / "square.npz", item=np.ones((2, 2), np.int64))
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    (tmp_path / "text.npz").write_text("1,2,3")
    (tmp_path / "text.parquet").write_text("1,2,3")
    pq.write_table(pa.table({"id": [4]}), tmp_path / "other.parquet")
    pq.write_table(pa.table({"key": [4, None]}), tmp_path / "null.parquet")
    for name in ("floats.npz", "square.npz", "objects.npy", "text.npz", "text.parquet", "other.parquet", "null.parquet"):
        with pytest.raises(Refused, match=name) as raised:
            read_touched(tmp_path / name)
        assert "\n" not in str(raised.value)
    with pytest.raises(NotFound, match="no file"):
        read_touched(tmp_path / "nowhere.npz")
