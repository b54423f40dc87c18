# mypy: disable-error-code="call-arg,no-untyped-def,no-untyped-call,var-annotated,attr-defined"
"""Where the encoded rows lie, by slot number. Knows no key, no bucket, no label.

A slot is written once, then only read until it is free again. Slots lie in chunks that never move, so growing disturbs nobody:

    slot      1, 2, 3, ... (0 is no slot) in memory of its own; from `lent` on in memory of others, such as a mapped file
    directory int64[MAX_CHUNKS], the address of each chunk; the second half is for rows of others, which are only read
    address   directory[slot >> shift] + (slot & (2^shift - 1)) * stride; the stride is the width, rounded up to 4 bytes
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import numpy as np
from numba import carray, njit
from numpy.typing import NDArray

from penstock.pipeline.core.codecs import half_value, int8_value
from penstock.pipeline.core.errors import InvalidInput, StorageFull
from penstock.pipeline.core.hashing import load_word

from .decoding import FLOAT32, INT8, word_to_float
from .machine import address_of, copy_bytes, pointer_to, prefetch_at
from .memory import claim, frozen, zeroed

Slots = NDArray[np.int64]
CHUNK_BYTES = 32 << 20
MAX_CHUNKS = 1 << 16
OWN_CHUNKS = MAX_CHUNKS // 2
_AHEAD = 24
_LINE = 64
_MAX_LINES = 8
"""Of a row that are asked for early; the rest of a long one comes in order, which the hardware foresees."""


@njit(inline="always", cache=True)
def address_of_slot(directory, shift, stride, slot):
    return directory[slot >> shift] + (slot & ((1 << shift) - 1)) * stride


@njit(inline="always", cache=True)
def bytes_at(address, count):
    """The bytes at an address, as an array."""
    return carray(pointer_to(address), (count,), np.uint8)


@njit(inline="always", cache=True)
def prefetch_row(address, width):
    reach = min(width, _MAX_LINES * _LINE)
    for line in range(0, reach, _LINE):
        prefetch_at(address + line)
    prefetch_at(address + reach - 1)


@njit(inline="always", cache=True)
def _line_of(address, dim):
    """Scale and bias of an int8 row."""
    word = load_word(bytes_at(address, dim + 8), dim)
    return word_to_float(word), word_to_float(word >> np.uint64(32))


@njit(nogil=True, cache=True)
def _decode(directory, shift, stride, width, codec, dim, slots, out, found):
    n, to = slots.size, address_of(out)
    for i in range(-_AHEAD, n):
        if i + _AHEAD < slots.size and slots[i + _AHEAD] > 0:
            prefetch_row(address_of_slot(directory, shift, stride, slots[i + _AHEAD]), width)
        if i < 0:
            continue
        slot = slots[i]
        found[i] = slot > 0
        if slot <= 0:
            out[i * dim : (i + 1) * dim] = 0
            continue
        address = address_of_slot(directory, shift, stride, slot)
        if codec == FLOAT32:
            copy_bytes(to + i * width, address, width)
        elif codec == INT8:
            row = bytes_at(address, dim)
            scale, bias = _line_of(address, dim)
            for j in range(dim):
                out[i * dim + j] = int8_value(row[j], scale, bias)
        else:
            half = carray(pointer_to(address), (dim,), np.uint16)
            for j in range(dim):
                out[i * dim + j] = half_value(half[j])


@njit(nogil=True, cache=True)
def _add_up(directory, shift, stride, width, codec, dim, slots, offsets, absent, out, found):
    """`absent`: float32[dim], what counts where there is no slot."""
    for i in range(min(_AHEAD, slots.size)):
        if slots[i] > 0:
            prefetch_row(address_of_slot(directory, shift, stride, slots[i]), width)
    for bag in range(offsets.size):
        total = out[bag * dim : (bag + 1) * dim]
        total[:] = 0
        for i in range(offsets[bag], offsets[bag + 1] if bag + 1 < offsets.size else slots.size):
            if i + _AHEAD < slots.size and slots[i + _AHEAD] > 0:
                prefetch_row(address_of_slot(directory, shift, stride, slots[i + _AHEAD]), width)
            slot = slots[i]
            found[i] = slot > 0
            if slot <= 0:
                for j in range(dim):
                    total[j] += absent[j]
                continue
            address = address_of_slot(directory, shift, stride, slot)
            if codec == FLOAT32:
                values = carray(pointer_to(address), (dim,), np.float32)
                for j in range(dim):
                    total[j] += values[j]
            elif codec == INT8:
                row = bytes_at(address, dim)
                scale, bias = _line_of(address, dim)
                for j in range(dim):
                    total[j] += int8_value(row[j], scale, bias)
            else:
                half = carray(pointer_to(address), (dim,), np.uint16)
                for j in range(dim):
                    total[j] += half_value(half[j])


@njit(nogil=True, cache=True)
def _copy(directory, shift, stride, width, slots, out):
    n, to = slots.size, address_of(out)
    for i in range(n):
        if i + _AHEAD < slots.size and slots[i + _AHEAD] > 0:
            prefetch_row(address_of_slot(directory, shift, stride, slots[i + _AHEAD]), width)
        if slots[i] > 0:
            copy_bytes(to + i * width, address_of_slot(directory, shift, stride, slots[i]), width)


@njit(nogil=True, cache=True)
def _differ(directory, shift, stride, width, slots, rows, out):
    for i in range(slots.size):
        out[i] = slots[i] <= 0
        if slots[i] > 0:
            row = bytes_at(address_of_slot(directory, shift, stride, slots[i]), width)
            for j in range(width):
                if row[j] != rows[i * width + j]:
                    out[i] = True
                    break


class Loan(NamedTuple):
    """Rows of others, by slots from `first` up to `stop`."""

    first: int
    stop: int
    rows: NDArray[np.uint8]


class Slab:
    """Rows of `width` bytes. One writer; a slot that a reader may still see is not given out again."""

    def __init__(self, width: int, *, chunk_bytes: int = CHUNK_BYTES) -> None:
        self.width = width
        self.stride = -(-width // 4) * 4
        self.shift = max(0, (chunk_bytes // self.stride).bit_length() - 1)
        self.directory: NDArray[np.int64] = zeroed(MAX_CHUNKS, np.int64)
        self.top = 1
        """The first slot that was never given out."""
        self.free: Slots = np.empty(64, np.int64)
        self.free_count = 0
        self.lent = OWN_CHUNKS << self.shift
        self._chunks: list[NDArray[np.uint8]] = []
        self._retired: deque[tuple[int, Slots]] = deque()
        self._next_lent = OWN_CHUNKS
        self._loans: list[Loan] = []
        self._returned: deque[tuple[int, Loan]] = deque()

    @property
    def nbytes(self) -> int:
        """Of memory of its own."""
        return self.row_bytes + self.stride + self.free.nbytes + sum(slots.nbytes for _, slots in self._retired)

    @property
    def row_bytes(self) -> int:
        """Of these, the ones that slots have taken so far."""
        return (self.top - 1) * self.stride

    def reserve(self, rows: int) -> None:
        """Room for `rows` slots, taken from the end of `free[:free_count]` first, then from `top` on."""
        needed = self.top + max(0, rows - self.free_count)
        while len(self._chunks) << self.shift < needed:
            if len(self._chunks) == OWN_CHUNKS:
                raise StorageFull(f"a table of more than {self.lent} rows", hint="hold fewer buckets")
            chunk = zeroed(self.stride << self.shift, np.uint8)
            self.directory[len(self._chunks)] = chunk.ctypes.data
            self._chunks.append(chunk)

    def claim(self) -> None:
        """Takes the memory of all chunks but the last, which may stay empty; from any thread."""
        for chunk in self._chunks[:-1]:
            claim(chunk)

    def borrow(self, rows: NDArray[np.uint8]) -> Loan:
        """Slots for rows that stay where they are: uint8[n, width] in C order, of which nobody changes a byte."""
        if self.width != self.stride:
            raise InvalidInput(f"rows of {self.width} bytes are not in steps of 4: they have to be copied")
        first = self._next_lent << self.shift
        loan = Loan(first, first + len(rows), frozen(rows))
        chunks = -(-len(rows) >> self.shift)
        if self._next_lent + chunks > MAX_CHUNKS:
            raise StorageFull(f"no more rows of others: {MAX_CHUNKS - OWN_CHUNKS} chunks were lent", hint="begin anew")
        for i in range(chunks):
            self.directory[self._next_lent + i] = loan.rows.ctypes.data + (i << self.shift) * self.stride
        self._next_lent += chunks
        self._loans.append(loan)
        return loan

    def give_back(self, loan: Loan, *, epoch: int) -> None:
        """Nothing leads to these rows any more, since the end of `epoch`."""
        self._loans.remove(loan)
        self._returned.append((epoch, loan))

    @property
    def borrowed_bytes(self) -> int:
        """Of the memory of others."""
        return sum(loan.rows.nbytes for loan in self._loans)

    def retire(self, slots: Slots, *, epoch: int) -> None:
        """These went out of sight in `epoch`."""
        if slots.size:
            self._retired.append((epoch, slots))

    def reclaim(self, *, before: int) -> None:
        """Nobody sees what went out of sight in an epoch before `before`."""
        while self._retired and self._retired[0][0] < before:
            slots = self._retired.popleft()[1]
            if self._next_lent > OWN_CHUNKS:
                slots = slots[slots < self.lent]
            count = self.free_count + slots.size
            if count > self.free.size:
                self.free = np.concatenate([self.free[: self.free_count], np.empty(count, np.int64)])
            self.free[self.free_count : count] = slots
            self.free_count = count
        while self._returned and self._returned[0][0] < before:
            self._returned.popleft()

    def decode(self, slots: Slots, codec: int, out: NDArray[np.float32], found: NDArray[np.bool_]) -> None:
        """float32[n, dim] of int64[n] slots: zeros and not found where the slot is not positive."""
        _decode(self.directory, self.shift, self.stride, self.width, codec, out.shape[1], slots, out.reshape(-1), found)

    def add_up(
        self, slots: Slots, codec: int, offsets: NDArray[np.int64], absent: NDArray[np.float32], out: NDArray[np.float32],
        found: NDArray[np.bool_],
    ) -> None:  # fmt: skip
        """As `decode`, but `out` (float32[bags, dim]) has the sums of bags, which begin at `offsets` (int64[bags], checked);
        `absent` (float32[dim]) counts where the slot is not positive."""
        flat, bags = out.reshape(-1), frozen(offsets)
        _add_up(
            self.directory, self.shift, self.stride, self.width, codec, out.shape[1], slots, bags, frozen(absent), flat, found
        )

    def copy(self, slots: Slots) -> NDArray[np.uint8]:
        """uint8[n, width] of int64[n] slots: zeros where the slot is not positive."""
        out = np.zeros((slots.size, self.width), np.uint8)
        _copy(self.directory, self.shift, self.stride, self.width, slots, out.reshape(-1))
        return out

    def differing(self, slots: Slots, rows: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """bool[n]: where the slot does not hold this row of uint8[n, width], or there is none."""
        out = np.empty(slots.size, np.bool_)
        _differ(self.directory, self.shift, self.stride, self.width, slots, frozen(rows), out)
        return out
