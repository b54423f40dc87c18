"""torch's tensors and storages as a pickle spells them: inert descriptions, checked against nothing but themselves.

persistent id                        ("storage", type, key, location, number of elements[, (view key, offset, size)])
torch._utils._rebuild_tensor_v2      (storage, offset, size, stride, requires_grad, hooks[, metadata])
torch._utils._rebuild_tensor_v3      the same, with a dtype before the metadata, over an untyped storage
torch._utils._rebuild_parameter      (tensor, requires_grad, hooks)
torch._tensor._rebuild_from_type_v2  (function, type, arguments, state)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from penstock.pipeline.core.errors import Corrupt, Unsupported

from ..stored_checkpoint import MAX_TENSORS
from ..tensors.elements import LARGEST, MAX_DIMENSIONS
from .pickle_machine import Buildable, Constructor, Global, PickleMachine, Value
from .pickle_stream import PickleStream
from .pickled_numpy import NUMPY_GLOBALS, PickledArray

MAX_DEPTH, MAX_PATH = 64, 4096
MAX_LETTERS = 1 << 26
"""Of all paths together, but for their last parts."""
MAX_SHARED = 100_000
"""Values that are reached once more, through lists and dicts that several others hold."""
_DTYPES = {
    "Double": "float64", "Float": "float32", "Half": "float16", "BFloat16": "bfloat16", "Long": "int64", "Int": "int32",
    "Short": "int16", "Char": "int8", "Byte": "uint8", "Bool": "bool", "ComplexFloat": "complex64", "ComplexDouble": "complex128",
}  # fmt: skip
_UNTYPED = ("torch.storage.UntypedStorage", "torch.UntypedStorage")
STORAGE_DTYPES: Mapping[str, str] = {
    **{f"torch.{name}Storage": dtype for name, dtype in _DTYPES.items()},
    **dict.fromkeys(_UNTYPED, "uint8"),
}
TENSOR_DTYPES: Mapping[str, str] = {
    f"torch.{dtype}": dtype
    for dtype in (
        *_DTYPES.values(), "uint16", "uint32", "uint64",
        "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu",
    )
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class StorageRef:
    """`count` elements of `dtype`, under a key that the archive knows; `size` of them, from `first` on, are in view."""

    key: str
    dtype: str
    count: int
    first: int
    size: int


@dataclass(frozen=True, slots=True)
class TensorRef(Buildable):
    """`offset` and `strides` count elements of `dtype`."""

    storage: StorageRef
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str

    def build(self, state: Value) -> None:
        """Attributes that a trainer hung on a tensor are no part of its values."""


Leaf = TensorRef | PickledArray | int | float | bool


def read_torch_pickle(data: bytes | PickleStream, name: str, storage: Callable[[Value], Value] | None = None) -> Value:
    """What was saved, with `TensorRef` for tensors; `storage` takes the place of `storage_of`. See `PickleMachine.run`."""
    machine = PickleMachine(name, TORCH_GLOBALS, storage or storage_of)
    return machine.run(data)


def leaves(value: Value, name: str) -> list[tuple[str, Leaf]]:
    """Every tensor, array and number inside dicts, lists and tuples, under the dotted path of keys that leads to it; that of
    a value which is one itself is "". Text, bytes, sets and None hold no tensors. `Corrupt` when there are too many, too
    deep, or under too long paths: a value of a few bytes can be reached along more paths than memory has room for."""
    found: list[tuple[str, Leaf]] = []
    waiting: list[tuple[str, Value, int]] = [("", value, 0)]
    reached: set[int] = set()
    seen = again = letters = 0
    while waiting:
        path, each, depth = waiting.pop()
        if isinstance(each, TensorRef | PickledArray | int | float):
            found.append((path, each))
        elif isinstance(each, dict | list | tuple):
            seen += len(each)
            again += len(each) if id(each) in reached else 0
            letters += len(each) * len(path)
            reached.add(id(each))
            if seen > MAX_TENSORS or depth > MAX_DEPTH or len(path) > MAX_PATH or letters > MAX_LETTERS:
                raise Corrupt(f"{name}: {path[:100]!r} holds more than {MAX_TENSORS} values, or nests or is called too long")
            if again > MAX_SHARED:
                raise Corrupt(f"{name}: {path[:100]!r} holds more than {MAX_SHARED} values that others hold as well")
            items = list(each.items() if isinstance(each, dict) else enumerate(each))
            prefix = f"{path}." if depth else ""
            for key, inner in reversed(items):
                part = key.name if isinstance(key, Global) else str(key)
                waiting.append((prefix + part[:MAX_PATH], inner, depth + 1))
    return found


def storage_of(identity: Value) -> StorageRef:
    """The storage that a persistent id names."""
    match identity:
        case ("storage", Global(name=kind), str(key), _, int(count), *view) if kind in STORAGE_DTYPES and 0 <= count <= LARGEST:
            first, size = _view(view[0], count) if view and view[0] is not None else (0, count)
            return StorageRef(key, STORAGE_DTYPES[kind], count, first, size)
    raise ValueError("a persistent id that names no storage")


def _view(value: Value, count: int) -> tuple[int, int]:
    if not isinstance(value, tuple) or len(value) != 3:
        raise TypeError("a view of a storage that is no key, offset and size")
    first, size = _count(value[1]), _count(value[2])
    if first + size > count:
        raise ValueError(f"a view of {size} elements at {first} leaves its storage of {count}")
    return first, size


def _tensor(storage: Value, offset: Value, shape: Value, strides: Value, *_: Value) -> TensorRef:
    if not isinstance(storage, StorageRef):
        raise TypeError("a tensor without a storage")
    return TensorRef(storage, _count(offset), counts(shape), counts(strides), storage.dtype)


def _tensor_v2(
    storage: Value, offset: Value, shape: Value, strides: Value, grad: Value, hooks: Value, metadata: Value = None
) -> TensorRef:
    if metadata:
        raise Unsupported("a tensor with metadata (conjugate or negative view) cannot be read", hint="save tensor.resolve_conj()")
    return _tensor(storage, offset, shape, strides)


def _tensor_v3(
    storage: Value, offset: Value, shape: Value, strides: Value, grad: Value, hooks: Value, dtype: Value, metadata: Value = None
) -> TensorRef:
    if not isinstance(dtype, Global) or dtype.name not in TENSOR_DTYPES:
        raise TypeError("a tensor without a dtype")
    found = _tensor_v2(storage, offset, shape, strides, grad, hooks, metadata)
    return TensorRef(found.storage, found.offset, found.shape, found.strides, TENSOR_DTYPES[dtype.name])


def _same(value: Value, *_: Value) -> Value:
    """A parameter is its tensor."""
    return value


def _from_type(function: Value, kind: Value, arguments: Value, state: Value) -> Value:
    if not isinstance(function, Global) or function.name not in _REBUILDERS or not isinstance(arguments, tuple):
        raise TypeError("it rebuilds tensors only")
    return _REBUILDERS[function.name](*arguments)


def no_text(*arguments: Value) -> str:
    """Devices and layouts: where a tensor was is of no interest."""
    return ""


def _dict(*arguments: Value) -> dict[Value, Value]:
    """OrderedDict(), OrderedDict([[key, value], …]), Counter({…}), defaultdict(factory)."""
    source = arguments[0] if arguments else ()
    if isinstance(source, dict):
        return dict(source)
    pairs = source if isinstance(source, list | tuple) else ()
    found: dict[Value, Value] = {}
    for pair in pairs:
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not isinstance(pair[0], str | int | float):
            raise TypeError("it takes pairs of a key and a value")
        found[pair[0]] = pair[1]
    return found


def _empty_set(*arguments: Value) -> set[Value]:
    """Sets hold no tensors: what is in one does not matter."""
    return set()


def _no_bytes(*arguments: Value) -> bytes:
    """Neither do bytes."""
    return b""


def _count(value: Value) -> int:
    if type(value) is not int or not 0 <= value <= LARGEST:
        raise ValueError(f"a {type(value).__name__} where a count in 63 bits belongs")
    return value


def counts(values: Value) -> tuple[int, ...]:
    if not isinstance(values, tuple | list) or len(values) > MAX_DIMENSIONS:
        raise TypeError(f"a shape or strides that are no tuple of at most {MAX_DIMENSIONS}")
    return tuple(_count(value) for value in values)


_REBUILDERS: dict[str, Constructor] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor_v2,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": _same,
    "torch._utils._rebuild_parameter_with_state": _same,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _same,
}
TORCH_GLOBALS: Mapping[str, Constructor | None] = {
    **_REBUILDERS,
    **NUMPY_GLOBALS,
    **dict.fromkeys((*STORAGE_DTYPES, *TENSOR_DTYPES)),
    **dict.fromkeys(("torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer")),
    **dict.fromkeys(("builtins.dict", "builtins.list", "builtins.int", "builtins.long", "builtins.float")),
    "torch._tensor._rebuild_from_type_v2": _from_type,
    "torch.Size": lambda sizes=(): counts(sizes),
    "torch.device": no_text,
    "torch.serialization._get_layout": no_text,
    **dict.fromkeys(("collections.OrderedDict", "collections.defaultdict", "collections.Counter"), _dict),
    "builtins.set": _empty_set,
    **dict.fromkeys(("builtins.bytes", "builtins.bytearray"), _no_bytes),
}
