"""ONNX models: their initializers, found in the protocol buffer without loading it. Nodes are looked at for one thing only.

    ModelProto   ir_version 1 · producer 2, 3 · domain 4 · graph 7 · opset_import 8 · …
    GraphProto   node 1 {input 1, op_type 4} · initializer 5 (TensorProto) · sparse_initializer 15 {values 1, indices 2, dims 3}

Tensors keep their names. A float matrix that some node gathers rows from is an embedding table; a sparse tensor is listed and not
read. Tensors in nodes' attributes, subgraphs and functions are no weights of the model and not listed.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from penstock.pipeline.core.errors import Corrupt

from ..checkpoint import Role, TensorSource, TextSource
from ..files.mapped_file import MappedFile
from ..files.wire import BYTES, VARINT, Field, Message, Source
from ..roles import role_of
from ..stored_checkpoint import MAX_TENSORS, StoredCheckpoint
from ..tensors.elements import MAX_DIMENSIONS, is_float
from ..tensors.unreadable import UnreadableTensor
from .onnx_tensors import MAX_NAME_BYTES, ExternalFiles, RoleOf, read_tensor

_GRAPH, _NODE, _INITIALIZER, _SPARSE = 7, 1, 5, 15
_MODEL_FIELDS = {
    1: VARINT, 2: BYTES, 3: BYTES, 4: BYTES, 5: VARINT, 6: BYTES, 7: BYTES, 8: BYTES, 14: BYTES, 20: BYTES, 25: BYTES, 26: BYTES,
}  # fmt: skip
_MAX_VERSION, _MAX_MODEL_FIELDS = 64, 10_000
_MAX_GLANCE_BYTES = 1 << 12
_GATHERS = {"Gather", "GatherElements", "GatherND"}


def is_onnx(path: Path, head: bytes) -> bool:
    """It begins with a version, and all else that it has, a graph included, are fields of a model; of a file that was cut
    short, as far as it goes."""
    if len(head) < 2 or head[0] != 1 << 3 | VARINT or not 1 <= head[1] <= _MAX_VERSION:
        return False
    file = MappedFile(path)
    numbers: list[int] = []
    try:
        for each in Source(file).message().fields():
            if _MODEL_FIELDS.get(each.number) != each.kind or len(numbers) > _MAX_MODEL_FIELDS:
                return False
            numbers.append(each.number)
    except Corrupt:
        return len(numbers) > 1
    finally:
        file.close()
    return _GRAPH in numbers


def open_onnx(path: Path) -> StoredCheckpoint:
    """Also opens the files of external data, which have to be in the model's folder; see `onnx_tensors.read_tensor`."""
    files = ExternalFiles(MappedFile(path))
    try:
        model = Source(files.model).message()
        graphs = [model.child(each) for each in model.fields() if each.number == _GRAPH]
        if not graphs:
            raise Corrupt(f"{path}: a model without a graph")
        sources = [source for graph in graphs for source in _read_graph(graph, files)]
        return StoredCheckpoint("onnx", sources, files.all)
    except BaseException:
        for file in files.all:
            file.close()
        raise


def _read_graph(graph: Message, files: ExternalFiles) -> list[TensorSource | TextSource]:
    gathered: set[str] = set()
    dense: list[Field] = []
    sparse: list[Field] = []
    for each in graph.fields():
        if each.number == _NODE:
            # Most nodes are no gathers, which is seen at once in those without large attributes.
            if each.value > _MAX_GLANCE_BYTES or b"Gather" in graph.data(each):
                gathered |= _gathered(graph.child(each))
        elif each.number == _INITIALIZER:
            dense.append(each)
        elif each.number == _SPARSE:
            sparse.append(each)
    if len(dense) + 2 * len(sparse) > MAX_TENSORS:
        raise Corrupt(f"{files.model}: {len(dense)} initializers, at most {MAX_TENSORS} are read")

    def role(name: str, shape: tuple[int, ...], dtype: str) -> Role:
        return "embedding" if name in gathered and len(shape) == 2 and is_float(dtype) else role_of(name, shape, dtype)

    found = [read_tensor(graph.child(each), files, role) for each in dense]
    return found + [_sparse(graph.child(each), files, role) for each in sparse]


def _sparse(message: Message, files: ExternalFiles, role: RoleOf) -> UnreadableTensor:
    """Listed under the name of its values."""
    fields = list(message.fields())
    values = [each for each in fields if each.number == 1]
    if len(values) != 1 or len(fields) > MAX_DIMENSIONS + 2:
        raise Corrupt(f"{files.model}: a sparse tensor at {message.start} without values, or with too many fields")
    info = read_tensor(message.child(values[0]), files, role).info
    return UnreadableTensor(replace(info, role="other", nbytes=0), "is sparse, which cannot be read")


def _gathered(node: Message) -> set[str]:
    """What a node takes rows from: its first input."""
    source, kind = "", ""
    for each in node.fields():
        if each.number == 1 and not source and each.kind == BYTES and each.value <= MAX_NAME_BYTES:
            source = node.text(each)
        elif each.number == 4 and each.kind == BYTES and each.value <= MAX_NAME_BYTES:
            kind = node.text(each)
    return {source} if kind in _GATHERS else set()
