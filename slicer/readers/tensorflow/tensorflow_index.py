"""The index of a TensorFlow V2 bundle (`<prefix>.index`): a table whose values are protocol buffers. Opens no data file.

    ""                    -> BundleHeaderProto{1: number of shards, 2: endianness (1 = big), 3: VersionDef{2: least consumer}}
    name of a tensor      -> BundleEntryProto{1: dtype, 2: TensorShapeProto, 3: shard, 4: offset, 5: size, 6: masked CRC-32C,
                             7: TensorSliceProto, one a slice of a partitioned tensor, whose elements lie under those keys}
    \\0 ordered code of a name and a slice -> BundleEntryProto of the slice

(TensorFlow `core/protobuf/tensor_bundle.proto`, `core/util/saved_tensor_slice_util.cc`, `core/lib/strings/ordered_code.cc`.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from penstock.pipeline.core.errors import Corrupt, Unsupported

from ..files.mapped_file import MappedFile
from ..files.wire import BYTES, Message, Source
from ..stored_checkpoint import MAX_TENSORS
from ..tensors.elements import LARGEST, MAX_DIMENSIONS
from .leveldb_table import entries

MAX_SHARDS = 512
_CONSUMER = 1
"""The version of the format that this reads."""

Extent = tuple[int, int]
Slice = tuple[Extent, ...]
"""(start, length) a dimension; the length of what takes all of its dimension is `FULL`."""
FULL = -1


@dataclass(slots=True, kw_only=True)
class Entry:
    """What the index says of a tensor, or of a slice of one. `checksum` is masked, None where the writer left it out."""

    dtype: int = 0
    shape: tuple[int, ...] = ()
    shard: int = 0
    offset: int = 0
    size: int = 0
    checksum: int | None = None
    slices: list[Slice] = field(default_factory=list)

    @property
    def holds_elements(self) -> bool:
        """Else they lie under the keys of its slices."""
        return all(length == FULL for part in self.slices for _, length in part)


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """`tensors` by name, in the order of the file; `pieces` of partitioned ones by `slice_key`."""

    shards: int
    big_endian: bool
    tensors: Mapping[str, Entry]
    pieces: Mapping[bytes, Entry]


def read_index(file: MappedFile) -> Index:
    """`Unsupported`: a table that is no bundle, or a bundle of another version. `Corrupt`: it breaks the format."""
    found = entries(file)
    key, value = next(found, (None, b""))
    if key != b"":
        raise Unsupported(f"{file}: a LevelDB table, and no TensorFlow bundle: it lacks the entry of the header")
    shards, big_endian = _header(Source(value, f"{file}: header").message())
    tensors: dict[str, Entry] = {}
    pieces: dict[bytes, Entry] = {}
    for key, value in found:
        what = f"{file}: tensor {key.decode('utf-8', 'backslashreplace')}"
        entry = _entry(Source(value, what).message(), what)
        if not 0 <= entry.shard < shards or not 0 <= entry.offset <= LARGEST or not 0 <= entry.size <= LARGEST:
            where = f"{entry.size} bytes at {entry.offset} of shard {entry.shard}"
            raise Corrupt(f"{what}: {where}: not within {shards} shards of less than 2^63 bytes")
        if key.startswith(b"\0"):
            pieces[key] = entry
            continue
        try:
            tensors[key.decode("utf-8")] = entry
        except UnicodeDecodeError:
            raise Corrupt(f"{file}: the name {key!r} is not UTF-8") from None
        if len(tensors) > MAX_TENSORS:
            raise Corrupt(f"{file}: more than {MAX_TENSORS} tensors")
    return Index(shards=shards, big_endian=big_endian, tensors=tensors, pieces=pieces)


def slice_key(name: str, part: Slice) -> bytes:
    """The key that a slice of tensor `name` has in the index."""
    code = bytearray(b"\0")
    code += name.encode("utf-8").replace(b"\0", b"\0\xff") + b"\0\1"
    code += bytes([1, len(part)]) if part else b"\0"
    for extent in part:
        for number in extent:
            code += _ordered(number)
    return bytes(code)


def _ordered(number: int) -> bytes:
    """A signed number whose bytes sort as the numbers do: its count of bytes in the leading bits, then its value."""
    length = 1
    while not -(1 << 7 * length - 1) <= number < 1 << 7 * length - 1:
        length += 1
    leading = (1 << length) - 1 << 7 * length
    return ((number & (1 << 8 * length) - 1) ^ leading).to_bytes(length, "big")


def _header(message: Message) -> tuple[int, bool]:
    """The number of shards, and whether numbers are big-endian."""
    shards = endianness = consumer = 0
    for each in message.fields():
        if each.number == 1 and each.kind == BYTES:
            hint = "convert it with tf.train.Saver(write_version=tf.train.SaverDef.V2)"
            raise Unsupported(f"{message.source}: a TensorFlow checkpoint of version 1; bundles (V2) can be read", hint=hint)
        if each.number == 1:
            shards = message.integer(each)
        elif each.number == 2:
            endianness = message.integer(each)
        elif each.number == 3:
            version = message.child(each)
            consumer = next((version.integer(one) for one in version.fields() if one.number == 2), 0)
    if not 0 <= shards <= MAX_SHARDS or endianness not in {0, 1}:
        raise Corrupt(f"{message.source}: {shards} shards of endianness {endianness}; 0 to {MAX_SHARDS} of 0 or 1 are read")
    if consumer > _CONSUMER:
        raise Unsupported(f"{message.source}: for readers of version {consumer} or later, this is one of version {_CONSUMER}")
    return shards, endianness == 1


def _entry(message: Message, what: str) -> Entry:
    found = Entry()
    for each in message.fields():
        if each.number == 1:
            found.dtype = message.integer(each)
        elif each.number == 2:
            found.shape = _shape(message.child(each), what)
        elif each.number == 3:
            found.shard = message.integer(each)
        elif each.number == 4:
            found.offset = message.integer(each)
        elif each.number == 5:
            found.size = message.integer(each)
        elif each.number == 6:
            found.checksum = message.fixed32(each)
        elif each.number == 7:
            found.slices.append(tuple(_extents(message.child(each))))
    return found


def _shape(message: Message, what: str) -> tuple[int, ...]:
    sizes: list[int] = []
    for each in message.fields():
        if each.number == 2:
            dimension = message.child(each)
            sizes.append(next((dimension.integer(one) for one in dimension.fields() if one.number == 1), 0))
        elif each.number == 3 and each.value:
            raise Corrupt(f"{what}: a shape of unknown rank")
    if len(sizes) > MAX_DIMENSIONS or not all(0 <= size <= LARGEST for size in sizes):
        raise Corrupt(f"{what}: {sizes[:MAX_DIMENSIONS]} is no shape")
    return tuple(sizes)


def _extents(message: Message) -> Iterator[Extent]:
    for each in message.fields():
        if each.number == 1:
            extent = message.child(each)
            start, length = 0, FULL
            for one in extent.fields():
                if one.number == 1:
                    start = extent.integer(one)
                elif one.number == 2:
                    length = extent.integer(one)
            yield start, length
