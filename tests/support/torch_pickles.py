"""Builds what torch.save writes, opcode by opcode, without torch: for archives that torch would and would never write."""

import pickle
import zipfile


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + len(raw).to_bytes(4, "little") + raw


def number(value: int | float) -> bytes:
    return pickle.dumps(value, 2)[2:-1]


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def tuple_of(*parts: bytes) -> bytes:
    return b"(" + b"".join(parts) + b"t"


def numbers(values: tuple[int, ...]) -> bytes:
    return tuple_of(*map(number, values))


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + tuple_of(*arguments) + b"R"


def mapping(items: dict[str, bytes]) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in items.items()) + b"u"


def instance(module: str, attribute: str, state: bytes) -> bytes:
    """An object of a class and its state, as dataclasses are pickled."""
    return name(module, attribute) + b")\x81" + state + b"b"


def storage(kind: str, key: str, count: int) -> bytes:
    return tuple_of(text("storage"), name("torch", kind), text(key), text("cpu"), number(count)) + b"Q"


def tensor(stored: bytes, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *more: bytes) -> bytes:
    hooks = call(name("collections", "OrderedDict"))
    rebuild = name("torch._utils", "_rebuild_tensor_v3" if more else "_rebuild_tensor_v2")
    return call(rebuild, stored, number(offset), numbers(shape), numbers(strides), b"\x89", hooks, *more)


def write_archive(path, body: bytes, storages: dict[str, bytes] | None = None, *, order: bytes = b"little") -> None:
    """A `.pt` whose pickle is `body` between PROTO and STOP; `path` may be a stream."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", b"\x80\x02" + body + b".")
        archive.writestr("model/byteorder", order)
        for key, data in (storages or {}).items():
            archive.writestr(f"model/data/{key}", data)
