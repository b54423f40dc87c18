"""Files for reading: however many there are, few are open, and one that is opened again is the same."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from open_files import open_files
from torch_files import DistributedFolder

from penstock.pipeline.core.errors import Corrupt, InvalidInput, NotFound
from penstock.slicer.readers.files.mapped_file import FileWindow, MappedFile
from penstock.slicer.readers.files.open_file import KEPT

DTYPE = np.dtype("<i8")


@pytest.fixture
def many(tmp_path):
    """Twice as many as stay open; the number of each is in it 100 times."""
    for number in range(2 * KEPT):
        np.full(100, number).tofile(tmp_path / f"{number}")
    files = [MappedFile(tmp_path / f"{number}") for number in range(2 * KEPT)]
    yield files
    for file in files:
        file.close()


def read(file, at=0, count=100):
    found = np.empty(count, DTYPE)
    file.read_into(8 * at, memoryview(found), "numbers")
    return found


def test_few_are_open_and_all_can_be_read(tmp_path, many):
    for order in (range(len(many)), reversed(range(len(many)))):
        for number in order:
            assert set(read(many[number], at=number % 100, count=1)) == {number}
            assert set(many[number].view(0, DTYPE, (100,))) == {number}
    assert sum(Path(path).parent == tmp_path for path in open_files()) == KEPT
    for file in many:
        file.close()
    assert not any(Path(path).parent == tmp_path for path in open_files())


def test_views_outlive_their_file(many):
    views = [file.view(8, DTYPE, (99,)) for file in many]
    window = FileWindow(many[3], 80, 80, "a part").view(0, DTYPE, (10,))
    for file in many:
        file.close()
    assert [set(view) for view in views] == [{number} for number in range(len(many))]
    assert set(window) == {3}
    assert not views[0].flags.writeable
    with pytest.raises(ValueError, match="WRITEABLE"):
        views[0].flags.writeable = True


def test_a_closed_one_stays_closed(many):
    for file in (many[0], many[-1]):
        file.close()
        file.close()
        for access in (lambda file=file: read(file), lambda file=file: file.view(0, DTYPE, (1,))):
            with pytest.raises(InvalidInput, match="is closed"):
                access()


@pytest.mark.parametrize("change", ["longer", "another", "removed"])
def test_one_that_is_opened_again_is_the_same(many, tmp_path, change):
    first = many[0].path
    if change == "longer":
        first.write_bytes(bytes(808))
    else:
        # Kept until then, so that its inode is not taken anew.
        first.rename(tmp_path / "old")
    if change == "another":
        first.write_bytes(bytes(800))
    error, match = (NotFound, "was removed while it was read") if change == "removed" else (Corrupt, "was changed while it was")
    for _ in range(2):
        with pytest.raises(error, match=f"{first}: the file {match}"):
            read(many[0])
        with pytest.raises(error, match=match):
            many[0].view(0, DTYPE, (1,))
    assert set(read(many[-1])) == {len(many) - 1}


def test_one_that_shrinks_while_it_is_open(many):
    os.truncate(many[-1].path, 80)
    assert set(read(many[-1], count=10)) == {len(many) - 1}
    with pytest.raises(Corrupt, match="ends at 80, 80 bytes early: the file has shrunk"):
        read(many[-1], count=20)
    with pytest.raises(Corrupt, match="has shrunk from 800 bytes"):
        many[-1].view(0, DTYPE, (1,))


def test_a_relative_path_is_that_of_its_time(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.arange(3).tofile("numbers")
    (tmp_path / "elsewhere").mkdir()
    for number in range(KEPT):
        (tmp_path / f"{number}").write_bytes(b"x")
    files = [MappedFile(Path("numbers")), *(MappedFile(Path(f"{number}")) for number in range(KEPT))]
    monkeypatch.chdir("elsewhere")
    assert read(files[0], count=3).tolist() == [0, 1, 2]
    assert str(files[0]) == "numbers"
    for file in files:
        file.close()


def test_threads_share_what_is_open(many):
    def read_wrong(seed):
        numbers = np.random.default_rng(seed).integers(0, len(many), 2000)
        return [n for n in numbers if set(many[n].view(0, DTYPE, (100,)) if n % 2 else read(many[n])) != {n}]

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(read_wrong, range(4))) == [[], [], [], []]


RANKS, ROWS_EACH = 3000, 2
SLICED = """
import resource, sys
from pathlib import Path
import numpy as np
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
from penstock.pipeline.config import ModelConfig, TableConfig
from penstock.pipeline.ports.local_store import LocalStore
from penstock.publishers.sources import checkpoint_source
from penstock.slicer.readers import open_checkpoint
from penstock.slicer.row_source import ArraySource
from penstock.slicer.run_layout import TableLayout
from penstock.slicer.slicing import slice_table

folder = Path(sys.argv[1])
wanted = np.load(folder.parent / "wanted.npy")
with open_checkpoint(folder) as checkpoint:
    views = [checkpoint.rows("table", at, at + 2) for at in range(0, len(wanted), 2)]
    assert np.array_equal(np.concatenate(views), wanted)
    assert np.array_equal(checkpoint.read("table"), wanted)
with checkpoint_source(folder, ModelConfig(tables={"t": TableConfig(tensor="table")})) as source:
    layout = TableLayout(table="t", codec="float32", dim=4, width=16, buckets=16)
    store = LocalStore(folder.parent / "store")
    both = {"a": source.tables["t"], "b": ArraySource(wanted)}
    digests = [slice_table(rows, layout, store, name).digests for name, rows in both.items()]
    assert np.array_equal(*digests)
print("all of", len(wanted))
"""


def test_a_checkpoint_of_thousands_of_ranks(tmp_path):
    """Under a limit of 256 open files, with all of its views alive."""
    wanted = np.arange(RANKS * ROWS_EACH * 4, dtype=np.float32).reshape(-1, 4)
    np.save(tmp_path / "wanted.npy", wanted)
    made = DistributedFolder(tmp_path / "step")
    made.chunks("table", wanted, [((at, 0), (ROWS_EACH, 4)) for at in range(0, len(wanted), ROWS_EACH)], ranks=RANKS)
    assert len(list(made.write().iterdir())) == RANKS + 1
    command = [sys.executable, "-c", SLICED, str(tmp_path / "step")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.stdout, done.stderr) == (f"all of {len(wanted)}\n", "")
