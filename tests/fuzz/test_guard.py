"""The guard finds what it is there for."""

import os
import pickle
import sys

import numpy as np
import pytest
from fuzz.guard import TooSlow, judge

from penstock.pipeline.core.errors import Corrupt


def _raises(error):
    def run(data, folder):
        raise error

    return run


def _opens_for_good(data, folder):
    os.open(folder, os.O_RDONLY)


def _runs_code(data, folder):
    pickle.loads(data)


def _reads_elsewhere(data, folder):
    (folder / "../../../../../../etc/hostname").open("rb").close()


def _reads_inside(data, folder):
    (folder / "a").write_bytes(data)
    assert (folder / "a").read_bytes() == data


def _takes_memory(data, folder):
    np.empty(1 << 30, np.uint8)


@pytest.mark.parametrize(
    ("run", "where"),
    [
        (_raises(ValueError("x")), "ValueError"),
        (_raises(RecursionError()), "RecursionError"),
        (_raises(TooSlow("x")), "TooSlow"),
        pytest.param(
            _takes_memory, "MemoryError", marks=pytest.mark.skipif(sys.platform != "linux", reason="no limit to memory")
        ),
        (_opens_for_good, "keeps a file open"),
        (_runs_code, "pickle.find_class"),
        (_reads_elsewhere, "opens /"),
    ],
)
def test_a_finding_is_told(tmp_path, run, where):
    found = judge(run, pickle.dumps(os.getcwd), tmp_path)
    assert found is not None
    assert found.where.startswith(where)


@pytest.mark.parametrize("run", [_raises(Corrupt("x")), _reads_inside])
def test_what_is_no_finding(tmp_path, run):
    assert judge(run, b"", tmp_path) is None
