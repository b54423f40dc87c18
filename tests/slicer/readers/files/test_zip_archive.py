"""Zips that zipfile would read, or be fooled by: names that leave, bombs, overlaps, two truths about one member."""

import io
import struct
import zipfile
import zlib

import pytest

from penstock.pipeline.core.errors import Corrupt, Refused, Unsupported
from penstock.slicer.readers.files.mapped_file import MappedFile
from penstock.slicer.readers.files.zip_archive import read_directory, read_member


def archive(items, method=zipfile.ZIP_STORED, *, comment=b""):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        for name, data in items:
            file.writestr(name, data)
        file.comment = comment
    return bytearray(buffer.getvalue())


@pytest.fixture
def directory(tmp_path):
    opened = []

    def read(data):
        (tmp_path / "a.zip").write_bytes(data)
        opened.append(MappedFile(tmp_path / "a.zip"))
        return read_directory(opened[-1]), opened[-1]

    yield read
    for file in opened:
        file.close()


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("comment", [b"", b"PK\x05\x06" * 10])
def test_members_lie_where_the_directory_says(directory, method, comment):
    items = [("a.npy", b"first" * 100), ("dir/b.npy", b""), ("ünïcode", b"last")]
    members, file = directory(archive(items, method, comment=comment))
    assert [(name, read_member(file, member)) for name, member in members.items()] == items


def test_zip64_as_torch_writes_it(directory):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file, file.open("a", "w", force_zip64=True) as member:
        member.write(b"data")
    found = bytearray(buffer.getvalue())
    at, end = found.index(b"PK\x01\x02"), found.index(b"PK\x05\x06")
    extra = struct.pack("<HHQQ", 1, 16, 4, 4)
    entry = found[at:end]
    entry[20:28], entry[30:32] = b"\xff" * 8, struct.pack("<H", len(extra))
    entry += extra
    body = found[:at] + entry
    end64 = struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 1, 1, len(entry), at)
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, len(body), 1)
    last = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    members, file = directory(body + end64 + locator + last)
    assert read_member(file, members["a"]) == b"data"
    entry[30:32] = struct.pack("<H", 0)
    with pytest.raises(Corrupt):
        directory(found[:at] + entry + end64 + locator + last)


@pytest.mark.parametrize("name", ["../up", "a/../../up", "/etc/passwd", "a\\b", "C:/x"])
def test_names_that_leave_are_refused(directory, name):
    stand_in = "x" * len(name.encode())
    data = bytes(archive([(stand_in, b"data")])).replace(stand_in.encode(), name.encode())
    with pytest.raises(Refused, match="leaves its folder"):
        directory(data)


def entry_at(data, number=0):
    at = data.index(b"PK\x01\x02")
    for _ in range(number):
        at = data.index(b"PK\x01\x02", at + 4)
    return at


def patched(data, offset, layout, *values, number=0):
    struct.pack_into(layout, data, entry_at(data, number) + offset, *values)
    return data


def test_what_a_directory_may_not_claim(directory):
    two = [("a", b"x" * 64), ("b", b"y" * 64)]
    cases = [
        (patched(archive(two), 8, "<H", 1), Unsupported, "'a' is encrypted"),
        (patched(archive(two), 10, "<H", 12), Unsupported, "compressed by method 12"),
        (patched(archive(two), 20, "<II", 9999, 9999), Corrupt, "leaves the file"),
        (patched(archive(two), 24, "<I", 9999), Corrupt, "stored, with two sizes"),
        (patched(archive(two), 42, "<I", 3), Corrupt, "its local header differs"),
        (patched(archive(two), 42, "<I", 0, number=1), Corrupt, "'b' at 0: its local header differs"),
        (patched(archive(two), 20, "<II", 70, 70), Corrupt, "overlap"),
        (archive([("a1", b""), ("a2", b"")]).replace(b"a2", b"a1"), Corrupt, "'a1' is there twice"),
        (patched(archive(two), 28, "<H", 60000), Corrupt, "directory is broken"),
        (patched(archive(two), 24, "<I", 0xFFFFFFFF), Corrupt, "lacks its 64-bit sizes"),
        (archive(two) + b"tail", Corrupt, "without its end record"),
        (b"PREFIX" + archive(two), Corrupt, "does not end at its end record"),
    ]
    for data, error, match in cases:
        with pytest.raises(error, match=match):
            directory(data)


def test_a_member_differs_from_its_checksum(directory):
    data = archive([("a", b"x" * 64)])
    data[40] ^= 1
    members, file = directory(data)
    with pytest.raises(Corrupt, match="'a' differs from its size or checksum"):
        read_member(file, members["a"])


def claimed(packed, nbytes):
    """One deflated member that says it is `nbytes` long."""
    data = archive([("a", zlib.compress(b"")[2:-4] + bytes(packed))])
    for at in (data.index(b"PK\x01\x02") + 10, 8):
        struct.pack_into("<H", data, at, 8)
    return patched(data, 24, "<I", nbytes)


def test_bombs_are_refused_before_they_go_off(directory):
    with pytest.raises(Corrupt, match="more than deflate can do"):
        directory(claimed(100, 2**31))
    with pytest.raises(Refused, match="a zip bomb"):
        directory(claimed(6_000_000, 2**31))


def test_a_member_that_inflates_to_more_than_it_says(directory):
    data = archive([("a", b"x" * 100_000)], zipfile.ZIP_DEFLATED)
    members, file = directory(patched(data, 24, "<I", 500))
    with pytest.raises(Corrupt, match="differs from its size"):
        read_member(file, members["a"])
