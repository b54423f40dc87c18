"""The readers of TensorFlow, Keras and ONNX, and how a fuzzer feeds them; with small checkpoints to start from."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import h5py
import numpy as np
import onnx
from crc32c import crc32c
from fuzz.mutation import members, mended, one_of, plain, table_checksums, zip_checksums
from fuzz.reader_seeds import ARRAYS, written
from fuzz.target import Target, in_file, in_folder, put
from fuzz.walking import read_checkpoint
from tensorflow_files import Partitioned, Stored, entry, header, table, write_bundle

from penstock.slicer.readers.hdf5.keras_hdf5 import open_hdf5, open_keras_zip
from penstock.slicer.readers.onnx.onnx_files import open_onnx
from penstock.slicer.readers.tensorflow.tensorflow_folders import open_tensorflow

_PREFIX = "model.ckpt-7"
_INDEX, _DATA = f"{_PREFIX}.index", f"{_PREFIX}.data-00000-of-00001"
_TEXTS = [b"one", b"", b"three" * 40]


@cache
def _bundle(order: str, packed: str) -> Mapping[str, bytes]:
    """The files of a bundle with a little of everything."""
    halves = [((0, 4), (0, None)), ((4, 2), (0, None))]
    tensors = {
        **ARRAYS, "texts": _TEXTS, "split": Partitioned(np.arange(12, dtype=np.float32).reshape(6, 2), halves),
        "bare": Stored(np.arange(3, dtype=np.int32), bare=True), "handle": Stored(np.zeros(1, np.uint8), dtype=20),
        "ev-keys": np.arange(2), "ev-values": np.ones((2, 3), np.float32), "global_step": np.array(7),
    }  # fmt: skip
    with TemporaryDirectory() as folder:
        write_bundle(Path(folder) / _PREFIX, tensors, order=order, snappy=bool(packed), per_block=4)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def _indexes() -> list[bytes]:
    return [_bundle("<", "")[_INDEX], _bundle("<", "snappy")[_INDEX], _bundle(">", "")[_INDEX]]


def _beside() -> Mapping[str, bytes]:
    state = f'model_checkpoint_path: "{_PREFIX}"\n'.encode()
    return {_DATA: _bundle("<", "")[_DATA], "checkpoint": state}


def _entries() -> list[bytes]:
    """Keys and values, each behind its length in 2 bytes."""
    from penstock.slicer.readers.files.mapped_file import MappedFile
    from penstock.slicer.readers.tensorflow.leveldb_table import entries

    with TemporaryDirectory() as folder:
        path = Path(folder) / _INDEX
        path.write_bytes(_bundle("<", "")[_INDEX])
        file = MappedFile(path)
        found = list(entries(file))
        file.close()
    return [b"".join(struct.pack("<H", len(part)) + part for pair in found for part in pair)]


def _run_entries(data: bytes, folder: Path) -> None:
    """The table around them, and its checksums, are right."""
    parts, at = [], 0
    while at + 2 <= len(data):
        end = at + 2 + struct.unpack_from("<H", data, at)[0]
        parts.append(data[at + 2 : end])
        at = end
    pairs = sorted(dict(zip(parts[::2], parts[1::2], strict=False)).items())
    put(folder / _DATA, _bundle("<", "")[_DATA])
    put(folder / _INDEX, table(pairs, per_block=5))
    read_checkpoint(folder / _INDEX, open_tensorflow, "tensorflow")


def _text_tensors() -> list[bytes]:
    """How many texts there are, then their lengths, a checksum that is made right, and their bytes."""
    lengths = bytes(len(text) if len(text) < 128 else 0 for text in _TEXTS)
    return [b"\x03" + lengths[:2] + b"\xc8\x01" + bytes(4) + b"".join(_TEXTS), b"\x01\x00\0\0\0\0", b"\x00\0\0\0\0"]


def _run_texts(data: bytes, folder: Path) -> None:
    count, raw, at = data[0] if data else 0, bytearray(data[1:]), 0
    summed, value, shift, left = b"", 0, 0, count
    while left and at < len(raw):
        value |= (raw[at] & 0x7F) << shift
        shift, at = shift + 7, at + 1
        if raw[at - 1] < 0x80:
            summed += (value & 2**64 - 1).to_bytes(8, "little")[: 4 if value < 2**32 else 8]
            value, shift, left = 0, 0, left - 1
    if at + 4 <= len(raw):
        crc = crc32c(summed)
        struct.pack_into("<I", raw, at, ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
    whole = crc32c(bytes(raw[at:]), crc32c(summed))
    described, _ = entry(Stored([], shape=(count,), size=len(raw), checksum=whole), 0, 0, "<")
    put(folder / _DATA, bytes(raw))
    put(folder / _INDEX, table([(b"", header(1)), (b"texts", described)]))
    read_checkpoint(folder / _INDEX, open_tensorflow, "tensorflow")


def _states() -> list[bytes]:
    lines = f'model_checkpoint_path: "{_PREFIX}"\nall_model_checkpoint_paths: "/tmp/model.ckpt-3"\n'
    return [lines.encode(), f'model_checkpoint_path: "/data/{_PREFIX}"'.encode(), b'model_checkpoint_path: "model.ckpt\\0557"']


def _hdf5_files() -> list[bytes]:
    def keras(path: Path) -> None:
        with h5py.File(path, "w") as file:
            file.attrs["layer_names"] = [b"user"]
            group = file.create_group("user")
            group.attrs["weight_names"] = [b"user/w:0", b"user/b:0"]
            group["user/w:0"], group["user/b:0"] = ARRAYS["table.rows"], ARRAYS["bias"]

    def chunked(path: Path) -> None:
        with h5py.File(path, "w") as file:
            file.create_dataset("a", data=ARRAYS["table.rows"], chunks=(2, 2), compression="gzip", shuffle=True)
            file.create_dataset("b", data=np.arange(9), chunks=(4,), fletcher32=True)
            file.create_dataset("texts", data=[b"one", b"three"], dtype=h5py.string_dtype("ascii"))
            file["s"] = np.array([b"ab", b"c"])

    def newer(path: Path) -> None:
        with h5py.File(path, "w", libver="latest") as file:
            file["layers/user/vars/0"] = ARRAYS["table.rows"]
            file.create_dataset("optimizer/vars/0", data=ARRAYS["table.keys"], chunks=(4,))
            file["link"] = h5py.SoftLink("/layers/user/vars/0")

    return [written(each, name="a.h5") for each in (keras, chunked, newer)]


def _keras_files() -> list[bytes]:
    import io
    import zipfile

    found = io.BytesIO()
    with zipfile.ZipFile(found, "w") as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", _hdf5_files()[2])
    return [found.getvalue()]


def _onnx_files() -> list[bytes]:
    kinds = onnx.TensorProto
    held = [onnx.numpy_helper.from_array(value, name) for name, value in ARRAYS.items()]
    held += [
        onnx.helper.make_tensor("floats", kinds.FLOAT, [2, 2], [1.0, 2.0, 3.0, 4.0]),
        onnx.helper.make_tensor("ints", kinds.INT64, [3], [1, -1, 2**40]),
        onnx.helper.make_tensor("halves", kinds.FLOAT16, [2], [1.0, 2.0]),
        onnx.helper.make_tensor("texts", kinds.STRING, [2], [b"one", b"three"]),
        onnx.helper.make_tensor("nibbles", kinds.INT4, [2], [1, 2]),
    ]
    outside = onnx.TensorProto(name="outside", data_type=kinds.FLOAT, dims=[2, 2], data_location=kinds.EXTERNAL)
    for key, value in {"location": "weights.bin", "offset": "16", "length": "16"}.items():
        outside.external_data.add(key=key, value=value)
    node = onnx.helper.make_node("Gather", ["floats", "ints"], ["y"])
    graph = onnx.helper.make_graph([node], "g", [], [], [*held, outside])
    return [
        onnx.helper.make_model(graph).SerializeToString(),
        onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [], held[:2])).SerializeToString(),
    ]


def _in_onnx_folder(data: bytes, folder: Path) -> None:
    put(folder / "weights.bin", bytes(64))
    put(folder / "model.onnx", data)
    read_checkpoint(folder / "model.onnx", open_onnx, "onnx")


_NUMBERS: Sequence[int] = (2**31 - 1, 2**32, 2**63 - 1, 2**64 - 1, 127, 300)
_VARINTS = tuple(
    bytes(
        [*(each >> shift & 0x7F | 0x80 for shift in range(0, each.bit_length() - 7, 7)), each >> (each.bit_length() - 1) // 7 * 7]
    )
    for each in _NUMBERS
)
_HDF5_WORDS = (
    b"\x89HDF\r\n\x1a\n", b"TREE", b"HEAP", b"SNOD", b"OHDR", b"OCHK", b"GCOL", b"FRHP", b"BTHD", b"FADB", b"FAHD", b"EAHD",
    b"\xff" * 8,
    b"user/w:0",
    b"layer_names", b"weight_names",
)  # fmt: skip

_PLACES = (b"location", b"offset", b"../x", b"/dev/zero", b"a" * 300)

FRAMEWORKS = (
    Target(
        name="tensorflow-table", seeds=_indexes, mutate=mended(table_checksums),
        run=in_folder(open_tensorflow, "tensorflow", name=_INDEX, beside=_beside), words=_VARINTS,
    ),
    Target(name="tensorflow-entries", seeds=_entries, run=_run_entries, words=_VARINTS),
    Target(name="tensorflow-texts", seeds=_text_tensors, run=_run_texts, words=_VARINTS),
    Target(
        name="tensorflow-folder", seeds=_states, words=(b"model_checkpoint_path: ", b"../", b"\\x2e", b"/"),
        run=in_folder(open_tensorflow, "tensorflow", name="checkpoint", beside=lambda: _bundle("<", "")),
    ),
    Target(name="hdf5", run=in_file(open_hdf5, "hdf5"), seeds=_hdf5_files, words=_HDF5_WORDS, most_bytes=16384),
    Target(
        name="keras-zip", run=in_file(open_keras_zip, "keras"), seeds=_keras_files, words=_HDF5_WORDS, most_bytes=16384,
        mutate=one_of(members(plain), mended(zip_checksums)),
    ),
    Target(name="onnx", run=_in_onnx_folder, seeds=_onnx_files, words=(*_VARINTS, *_PLACES)),
)  # fmt: skip
