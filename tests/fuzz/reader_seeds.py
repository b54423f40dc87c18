"""Small checkpoints that are right, for a fuzzer to start from: as the writers make them, a few hundred bytes each."""

from __future__ import annotations

import io
import json
import pickle
import struct
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import safetensors.numpy
from torch_pickles import call, mapping, name, number, numbers, storage, tensor, text, tuple_of, write_archive

Array = np.ndarray[tuple[int, ...], np.dtype[np.generic]]
ARRAYS: Mapping[str, Array] = {
    "table.rows": np.arange(12, dtype=np.float32).reshape(6, 2),
    "table.keys": np.array([1, -2, 3, 4, 5, 2**62], np.int64),
    "bias": np.array(0.5, np.float64),
    "none": np.empty((0, 3), np.float16),
}
STORAGE_BYTES = 48
STORAGES = {key: bytes(range(STORAGE_BYTES)) for key in ("0", "1")}


def written(write: object, *, name: str = "file") -> bytes:
    """What `write(path)` leaves in a file."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / name
        write(path)  # type: ignore[operator]
        return path.read_bytes()


def safetensors_files() -> list[bytes]:
    rules = {"F8_E4M3": 1, "BF16": 2}
    header = {key: {"dtype": key, "shape": [2], "data_offsets": [0, 2 * size]} for key, size in rules.items()}
    header["BF16"]["data_offsets"] = [2, 6]
    raw = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    return [safetensors.numpy.save(dict(ARRAYS)), struct.pack("<Q", len(raw)) + raw + bytes(6)]


def safetensors_sets() -> list[bytes]:
    """Indexes of the two files of `SET_FILES`."""
    names = {key: file for file, arrays in SET_ARRAYS.items() for key in arrays}
    return [json.dumps({"metadata": {"total_size": 80}, "weight_map": names}).encode()]


SET_ARRAYS = {
    "model-00001-of-00002.safetensors": {key: ARRAYS[key] for key in ("table.rows", "bias")},
    "model-00002-of-00002.safetensors": {key: ARRAYS[key] for key in ("table.keys", "none")},
}
SET_FILES = {file: safetensors.numpy.save(arrays) for file, arrays in SET_ARRAYS.items()}


def npy_files() -> list[bytes]:
    found = []
    fortran = np.asfortranarray(ARRAYS["table.rows"])
    for value in (*ARRAYS.values(), fortran, np.array(["one", "three"]), np.array([b"x", b"yz"]), np.arange(3, dtype=">i8")):
        stream = io.BytesIO()
        np.lib.format.write_array(stream, value, version=(2, 0) if value is fortran else None)
        found.append(stream.getvalue())
    return found


def npz_files() -> list[bytes]:
    saves = (np.savez, np.savez_compressed)
    return [written(lambda path, save=save: save(path, **ARRAYS), name="a.npz") for save in saves]


def torch_pickles() -> list[bytes]:
    """What stands in `data.pkl`, over `STORAGES`."""
    array = call(name("numpy.core.multiarray", "_reconstruct"), name("numpy", "ndarray"), tuple_of(number(0)), text("b"))
    code = call(name("numpy", "dtype"), text("f8"), b"\x89", b"\x88")
    code += tuple_of(number(3), text("<"), b"N", b"N", b"N", number(-1), number(-1), number(0)) + b"b"
    data = call(name("_codecs", "encode"), text("\0" * 16), text("latin1"))
    values = {
        "rows": tensor(storage("FloatStorage", "0", 12), 0, (6, 2), (2, 1)),
        "keys": tensor(storage("LongStorage", "1", 6), 0, (6,), (1,)),
        "turned": tensor(storage("FloatStorage", "0", 12), 1, (2, 5), (1, 2)),
        "spread": tensor(storage("FloatStorage", "0", 12), 3, (4, 6), (0, 1)),
        "bits": tensor(storage("BFloat16Storage", "0", 24), 0, (24,), (1,)),
        "typed": tensor(storage("UntypedStorage", "0", 48), 0, (2,), (1,), name("torch", "uint16")),
        "weight": call(
            name("torch._utils", "_rebuild_parameter"), tensor(storage("HalfStorage", "1", 24), 0, (2, 3), (3, 1)), b"\x88", b"N"
        ),
    }
    plain = {
        "array": array + tuple_of(number(1), tuple_of(number(2)), code, b"\x89", data) + b"b",
        "scalar": call(
            name("numpy.core.multiarray", "scalar"), code, call(name("_codecs", "encode"), text("\0" * 8), text("latin1"))
        ),
        "lr": number(0.5),
        "step": number(7),
        "size": call(name("torch", "Size"), tuple_of(number(2), number(3))),
        "list": b"](" + number(1) + b"\x88N" + text("x") + b"e",
    }
    frames = [mapping(values), mapping(plain), mapping({"model": mapping(values), "optimizer": mapping(plain)}), values["rows"]]
    return [b"\x80\x02" + body + b"." for body in frames]


def torch_words() -> tuple[bytes, ...]:
    """Pieces of pickles that a fuzzer would not think of."""
    globals_ = [
        ("torch._utils", "_rebuild_tensor_v2"), ("torch._utils", "_rebuild_tensor_v3"), ("torch._utils", "_rebuild_parameter"),
        ("torch._utils", "_rebuild_parameter_with_state"), ("torch._tensor", "_rebuild_from_type_v2"), ("torch", "Size"),
        ("torch", "FloatStorage"), ("torch.storage", "UntypedStorage"), ("torch", "bfloat16"), ("torch", "float8_e4m3fn"),
        ("collections", "OrderedDict"), ("collections", "defaultdict"), ("numpy", "dtype"), ("numpy", "ndarray"),
        ("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "scalar"), ("numpy._core.numeric", "_frombuffer"),
        ("_codecs", "encode"), ("__builtin__", "set"), ("builtins", "bytearray"), ("builtins", "list"), ("torch", "device"),
        ("os", "system"),
    ]  # fmt: skip
    numbers = [number(each) for each in (0, 1, 2, -1, 255, 2**31, 2**62, 2**63 - 1, 2**64, 1.5)]
    single = [bytes([each]) for each in b"(.0123Nt)]}lduseabRQhqjr\x81\x85\x86\x87\x88\x89\x8f\x90\x91\x93\x94"]
    more = [text("0"), text("storage"), text(""), b"\x95" + bytes(8), b"\x8c\x03abc", b"q\x00", b"h\x00", b"C\x02ab", b"\x80\x05"]
    tensors = [storage("FloatStorage", "0", 12), tensor(storage("FloatStorage", "0", 12), 0, (6, 2), (2, 1))]
    return (*(name(*each) for each in globals_), *numbers, *single, *more, *tensors)


def torch_files() -> list[bytes]:
    orders = (b"little", b"big", b"little", b"little")
    bodies = [each[2:-1] for each in torch_pickles()]
    return [
        written(lambda path, b=body, o=order: write_archive(path, b, STORAGES, order=o))
        for body, order in zip(bodies, orders, strict=True)
    ]


def torch_legacy_files() -> list[bytes]:
    head = b"".join(pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))
    stored = b"".join(struct.pack("<q", STORAGE_BYTES // width) + STORAGES[key] for key, width in (("0", 4), ("1", 8)))
    viewed = storage("FloatStorage", "0", 12)[:-2] + tuple_of(text("0"), number(0), number(12)) + b"tQ"
    bodies = [
        mapping(
            {
                "a": tensor(storage("FloatStorage", "0", 12), 0, (6, 2), (2, 1)),
                "b": tensor(storage("LongStorage", "1", 6), 1, (5,), (1,)),
            }
        ),
        mapping(
            {
                "model": mapping(
                    {"a": tensor(viewed, 0, (3, 4), (1, 3)), "b": tensor(storage("LongStorage", "1", 6), 0, (6,), (1,))}
                ),
                "lr": number(0.5),
            }
        ),
    ]
    return [head + b"\x80\x02" + body + b"." + pickle.dumps(["0", "1"], 2) + stored for body in bodies]


_METADATA, _FILES = "torch.distributed.checkpoint.metadata", "torch.distributed.checkpoint.filesystem"


def _made(kind: str, state: bytes, module: str = _METADATA) -> bytes:
    return name(module, kind) + b")\x81" + state + b"b"


def _size(*sizes: int) -> bytes:
    return call(name("torch", "Size"), numbers(sizes))


def distributed_files() -> Mapping[str, bytes]:
    """Two pieces of a table and an object, one behind the other in the file of a rank."""
    half = tensor(storage("FloatStorage", "0", 6), 0, (3, 2), (2, 1))
    parts = [
        written(lambda path, b=body: write_archive(path, b, {"0": STORAGES["0"][:24]}))
        for body in (half, half, mapping({"step": number(3)}))
    ]
    ends = [sum(map(len, parts[: at + 1])) for at in range(3)]
    properties = tuple_of(
        name("torch", "float32"),
        call(name("torch.serialization", "_get_layout"), text("torch.strided")),
        b"\x89",
        call(name(_METADATA, "_MEM_FORMAT_ENCODING"), number(0)),
        b"\x89",
    )
    chunks = (
        b"]("
        + b"".join(_made("ChunkStorageMetadata", mapping({"offsets": _size(at, 0), "sizes": _size(3, 2)})) for at in (0, 3))
        + b"e"
    )
    table = mapping({"properties": _made("TensorProperties", properties), "size": _size(6, 2), "chunks": chunks})
    state = mapping({"table.weight": _made("TensorStorageMetadata", table), "optim": _made("BytesStorageMetadata", b"}")})
    stored = (
        b"}("
        + b"".join(
            _made("MetadataIndex", mapping({"fqn": text(fqn), "offset": offset, "index": b"N"}))
            + _made(
                "_StorageInfo",
                mapping({"relative_path": text("__0_0.distcp"), "offset": number(end - len(part)), "length": number(len(part))}),
                _FILES,
            )
            for fqn, offset, part, end in zip(
                ("table.weight", "table.weight", "optim"), (_size(0, 0), _size(3, 0), b"N"), parts, ends, strict=True
            )
        )
        + b"u"
    )
    whole = {"state_dict_metadata": state, "planner_data": b"N", "storage_data": stored, "storage_meta": b"N", "version": b"N"}
    return {"__0_0.distcp": b"".join(parts), ".metadata": b"\x80\x02" + _made("Metadata", mapping(whole)) + b"."}


def distributed_words() -> tuple[bytes, ...]:
    kinds = (
        "Metadata",
        "MetadataIndex",
        "TensorStorageMetadata",
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "TensorProperties",
    )
    texts = (
        "relative_path",
        "offset",
        "length",
        "chunks",
        "offsets",
        "sizes",
        "size",
        "fqn",
        "../x",
        "__0_0.distcp",
        "transform_descriptors",
    )
    return (*(_made(kind, b"}") for kind in kinds), *map(text, texts), _size(3, 2), b")\x81", *torch_words())
