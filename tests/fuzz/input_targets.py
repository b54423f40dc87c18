"""What a caller puts beside a checkpoint: lists of touched keys, and vocabularies; with small ones to start from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fuzz.guard import Run
from fuzz.mutation import header_length, members, mended, one_of, plain, zip_checksums
from fuzz.reader_seeds import written
from fuzz.target import Target, json_words, put


def _touched(name: str) -> Run:
    def run(data: bytes, folder: Path) -> None:
        from penstock.publishers.touched_files import read_touched  # what publishes is not loaded for those who only read

        put(folder / name, data)
        for keys in read_touched(folder / name).values():
            assert keys.dtype == np.int64
            assert (keys[1:] > keys[:-1]).all()

    return run


def _vocabulary(name: str) -> Run:
    def run(data: bytes, folder: Path) -> None:
        from penstock.publishers.vocabulary import read_listing

        put(folder / name, data)
        listing = read_listing([folder], name)
        assert listing.rows is None or len(listing.rows) == len(listing.keys)
        if isinstance(listing.keys, pa.Array):
            listing.keys.validate(full=True)

    return run


_KEYS = {"user": np.array([3, -1, 3]), "item": np.array([b"one", b"two"]), "city": np.array(["a", "ü"])}


def _npz_files() -> list[bytes]:
    return [written(lambda path, save=save: save(path, **_KEYS), name="a.npz") for save in (np.savez, np.savez_compressed)]


def _parquet_files() -> list[bytes]:
    tables = (
        pa.table({"key": pa.array([3, -1]), "table": ["user", "item"]}),
        pa.table({"key": pa.array(["one", "two"]), "table": pa.array(["a", "b"]).dictionary_encode()}),
        pa.table({"key": pa.array([1, 2], pa.uint64())}),
    )
    return [written(lambda path, each=each: pq.write_table(each, path, store_schema=False)) for each in tables]


_NUMPY = one_of(members(mended(header_length("<H", 8))), members(plain), mended(zip_checksums))

INPUTS = (
    Target(name="touched-numpy", run=_touched("touched.npz"), seeds=_npz_files, mutate=_NUMPY),
    Target(name="touched-parquet", run=_touched("touched.parquet"), seeds=_parquet_files, words=(b"PAR1",)),
    Target(
        name="vocabulary-numpy", run=_vocabulary("words.npz"), mutate=_NUMPY,
        seeds=lambda: [written(lambda path: np.savez(path, ids=_KEYS["item"]), name="a.npz")],
    ),
    Target(
        name="vocabulary-json", run=_vocabulary("words.json"), words=json_words(),
        seeds=lambda: [b'["one","two",""]', b'{"one":0,"two":3}', b"[3,-1]"],
    ),
    Target(
        name="vocabulary-text", run=_vocabulary("words.txt"), words=(b"\r\n", b"\n"),
        seeds=lambda: [b"one\ntwo\r\n\nthree", b"1\n-2\n"],
    ),
)  # fmt: skip
