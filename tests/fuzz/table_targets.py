"""The readers of tables: raw dumps, Parquet deltas and text, and how a fuzzer feeds them; with small ones to start from."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow.parquet as pq
from easyrec_deltas import SCHEMA, batch
from fuzz.reader_seeds import written
from fuzz.target import Target, in_file, in_folder, in_names
from raw_dumps import Part, write_collection, write_sok

from penstock.slicer.readers.dumps.dynamicemb_dumps import open_dynamicemb
from penstock.slicer.readers.dumps.hugectr_dumps import open_hugectr
from penstock.slicer.readers.dumps.sok_dumps import open_sok
from penstock.slicer.readers.dumps.tfra_files import open_tfra
from penstock.slicer.readers.dumps.torcheasyrec_delta import open_torcheasyrec_delta
from penstock.slicer.readers.words.text_tables import open_text_table
from penstock.slicer.readers.words.word2vec_files import open_word2vec_binary

_PART = Part(np.arange(3), np.ones((3, 2), np.float32))


@cache
def _collection() -> Mapping[str, bytes]:
    with TemporaryDirectory() as folder:
        write_collection(Path(folder), {0: _PART, 5: _PART})
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


@cache
def _sok_files() -> Mapping[str, bytes]:
    with TemporaryDirectory() as folder:
        write_sok(Path(folder), "t", _PART.keys, _PART.rows, m=_PART.rows)
        return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


def _deltas() -> list[bytes]:
    rows = [("user", 1, [0.5, 1.0]), ("item", 7, [1.0] * 3), ("user", -2, [0.0, 0.0]), ("user", 1, [0.5, 1.0])]

    def write(path: Path, **options: object) -> None:
        pq.write_table(batch(rows, schema=SCHEMA), path, store_schema=False, **options)

    ways = ({"row_group_size": 2}, {"compression": "NONE", "use_dictionary": False}, {"data_page_version": "2.0"})
    return [written(lambda path, options=options: write(path, **options)) for options in ways]


def _texts() -> list[bytes]:
    return [
        b"2 3\nking 0.5 -1 2e-3\nqueen 1 2 3.25 \n", b"the 0.5 1.5\nof the 1e-3 nan\r\n", b"7:0.5 1.25\n-8:1.5 2.5\n",
        b"a:b:1.0 2.0 3.0\nc:1.0 2.0 3.0",
    ]  # fmt: skip


def _words() -> list[bytes]:
    values = np.array([0.5, -1.0], "<f4").tobytes()
    return [b"2 2\nking " + values + b"\nqueen " + values + b"\n", b"2 2\nking " + values + b"queen " + values]


def _names(*lines: str) -> bytes:
    return "\n".join(lines).encode()


TABLES = (
    Target(
        name="hugectr", seeds=lambda: [_collection()["meta_data"]],
        run=in_folder(open_hugectr, "hugectr", name="meta_data", beside=_collection),
    ),
    Target(
        name="hugectr-names", run=in_names(open_hugectr, "hugectr"), words=(b"emb_vector", b"slot_id", b"_dense_0.model"),
        seeds=lambda: [
            _names("18 user/key", "18 user/emb_vector", "8 item/key", "10 item/emb_vector", "8 item/slot_id"),
            _names("18 key", "18 emb_vector", "10 _dense_3.model", "11 a_opt_sparse_3.model"),
        ],
    ),
    *(
        Target(
            name=f"sok-{name.rpartition('-')[2]}", seeds=lambda name=name: [_sok_files()[name]],
            run=in_folder(open_sok, "sok", name=name, beside=_sok_files),
        )
        for name in _sok_files()
    ),
    Target(
        name="tfra-names", run=in_names(open_tfra, "tfra"), words=(b"TFRADynamicEmbedding/", b"_mht_", b"of", b"-keys"),
        seeds=lambda: [
            _names("10 t_mht_1of2-keys", "10 t_mht_1of2-values", "8 t_mht_2of2-keys", "8 t_mht_2of2-values"),
            _names(*(f"8 TFRADynamicEmbedding/t_mht_1of1_rank0_size1-{what}" for what in ("keys", "values"))),
        ],
    ),
    Target(
        name="dynamicemb-names", run=in_names(open_dynamicemb, "dynamicemb"), words=(b".rank_", b".world_size_", b"_emb_keys"),
        seeds=lambda: [
            _names(*(f"10 t_{what}.rank_0.world_size_1" for what in ("emb_keys", "emb_values", "opt_values"))),
            _names("8 m/t_emb_keys.rank_0.world_size_1", "8 m/t_emb_values.rank_0.world_size_1"),
        ],
    ),
    Target(
        name="torcheasyrec", run=in_file(open_torcheasyrec_delta, "torcheasyrec delta"), seeds=_deltas, words=(b"PAR1",),
        most_bytes=16384,
    ),
    Target(
        name="text-table", run=in_file(open_text_table, "text table"), seeds=_texts,
        words=(b"1e-3", b"nan", b"-inf", b"\r\n", b" ", b":", b"0x1p3", b"1e400", b"\xff"),
    ),
    Target(name="word2vec", run=in_file(open_word2vec_binary, "word2vec"), seeds=_words, words=(b"1 1\n", b"999999999")),
)  # fmt: skip
