"""Mending: what is right stays as it is, and what was changed behind a checksum is let in again."""

from random import Random

import pyarrow as pa
import pytest
from fuzz import framework_targets, mutation, reader_seeds, stored_seeds

MENDS = {
    "zip": (mutation.zip_checksums, lambda: [*reader_seeds.npz_files(), *reader_seeds.torch_files()]),
    "npy": (mutation.header_length("<H", 8), lambda: reader_seeds.npy_files()[:3]),
    "safetensors": (mutation.header_length("<Q", 0), reader_seeds.safetensors_files),
    "record": (mutation.record_checksum, stored_seeds.records),
    "run": (mutation.run_checksum, stored_seeds.runs),
    "segment": (mutation.segment_checksums, lambda: [stored_seeds.segments()[1][2:]]),
    "table": (mutation.table_checksums, lambda: framework_targets.FRAMEWORKS[0].seeds()[:1]),
}
CHECKSUMS = {
    "zip": lambda data: data.index(b"PK\x01\x02") + 16,
    "record": lambda data: 8,
    "run": lambda data: data.index(pa.ipc.read_schema(pa.py_buffer(data[8:])).metadata[b"penstock.crc"]),
    "segment": lambda data: 0,
    "table": lambda data: len(data) - 48 - 1,
}


@pytest.mark.parametrize("name", MENDS)
def test_what_is_right_stays_as_it_is(name):
    mend, seeds = MENDS[name]
    for seed in seeds():
        assert mend(seed) == seed


@pytest.mark.parametrize("name", CHECKSUMS)
def test_a_checksum_is_made_right(name):
    mend, seeds = MENDS[name]
    seed = seeds()[0]
    broken = bytearray(seed)
    broken[CHECKSUMS[name](seed)] ^= 1
    assert bytes(broken) != seed
    assert mend(bytes(broken)) == seed


@pytest.mark.parametrize("mutate", [mutation.opcodes((b"N", b"\x88")), mutation.members(mutation.plain)])
def test_mutations_change_something_and_keep_to_the_limit(mutate):
    seed, found = reader_seeds.torch_files()[0], set()
    for number in range(50):
        changed = mutate(seed, len(seed) + 10, Random(number), lambda data, most: (data + b"x")[:most])
        assert len(changed) <= len(seed) + 10
        found.add(changed)
    assert len(found) > 10
