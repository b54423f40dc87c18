"""Protocol buffers field by field, without a schema: for ONNX models that no library would write."""


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    found = bytearray()
    while value >= 0x80:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(found) + bytes([value])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def data(field: int, value: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(value)) + value


def tensor(name: str, data_type: int, shape: tuple[int, ...], *fields: bytes) -> bytes:
    """A `TensorProto`; `fields` are what its elements are in."""
    return b"".join(number(1, size) for size in shape) + number(2, data_type) + data(8, name.encode()) + b"".join(fields)


def external(**entries: object) -> bytes:
    """The fields of a tensor whose elements are in another file."""
    texts = ((key.encode(), str(value).encode()) for key, value in entries.items())
    return number(14, 1) + b"".join(data(13, data(1, key) + data(2, value)) for key, value in texts)


def model(*tensors: bytes, graph: bytes = b"") -> bytes:
    """A `ModelProto` of these initializers; `graph` is what else is in the graph."""
    inside = graph + b"".join(data(5, each) for each in tensors)
    return number(1, 10) + data(2, b"tests") + data(7, inside) + data(8, number(2, 21))
