"""A trainer's own checkpoint, optimizer state and all, kept beside the slices of a snapshot."""

import filecmp
import shutil
from pathlib import Path

import pytest

from penstock.pipeline.config import parse_config
from penstock.pipeline.core.checkpoint import decode_sidecar
from penstock.pipeline.core.errors import Corrupt, NotFound
from penstock.pipeline.environment import create_environment
from penstock.publishers.archive import export_archive
from penstock.publishers.delta import publish_delta
from penstock.publishers.snapshot import publish_snapshot
from penstock.publishers.sources import checkpoint_source
from penstock.publishers.verification import verify

DATA = Path(__file__).parents[1] / "data" / "torch_dlrm_retail"
CONFIG = """
[store]
url = "file://{folder}/store"
[log]
url = "file://{folder}/log"
partitions = 2
[models.retail]
buckets = 8
optimizer = "{optimizer}"
[models.retail.tables.customer]
tensor = "model.embeddings.customer.weight"
"""


@pytest.fixture
def opened(tmp_path):
    def open_with(optimizer):
        return create_environment(parse_config(CONFIG.format(folder=tmp_path, optimizer=optimizer), "test"), "retail")

    return open_with


@pytest.mark.parametrize("packing", ["file", "tar"])
def test_a_snapshot_keeps_the_checkpoint_as_it_was(opened, tmp_path, packing):
    path = DATA / "step_0001.pt"
    if packing == "tar":
        path = tmp_path / "step_1"
        path.mkdir()
        shutil.copy(DATA / "step_0001.pt", path / "model.pt")
    with opened("archive") as env:
        with checkpoint_source(path, env.model) as source:
            first = publish_snapshot(env, source, trained_through=5)
        assert first.checkpoint.packing == packing
        target = export_archive(env, first, tmp_path / "out")
        original = DATA / "step_0001.pt"
        assert filecmp.cmp(original, target if packing == "file" else target / "model.pt", shallow=False)
        beside = target / "penstock.json" if packing == "tar" else target.with_name("step_0001.pt.penstock.json")
        assert decode_sidecar(beside.read_bytes(), "sidecar").state == str(first.state)
        with checkpoint_source(DATA / "step_0002.pt", env.model) as source:
            delta = publish_delta(env, source, trained_through=6)
        with pytest.raises(NotFound, match="version 2 has no archived checkpoint"):
            export_archive(env, delta, tmp_path / "none")


def test_a_damaged_archive_is_found(opened, tmp_path):
    with opened("archive") as env:
        with checkpoint_source(DATA / "step_0001.pt", env.model) as source:
            first = publish_snapshot(env, source, trained_through=5)
        assert verify(env).ok
        path = env.catalog.store.local_path(first.checkpoint.path)
        data = bytearray(path.read_bytes())
        data[1000] ^= 1
        path.write_bytes(data)
        assert [finding.object for finding in verify(env).findings] == [first.checkpoint.path]
        with pytest.raises(Corrupt, match="BLAKE2b"):
            export_archive(env, first, tmp_path / "out")
        assert not (tmp_path / "out" / "step_0001.pt").exists()


def test_by_default_nothing_is_archived(opened):
    with opened("leave") as env, checkpoint_source(DATA / "step_0001.pt", env.model) as source:
        assert publish_snapshot(env, source, trained_through=5).checkpoint is None
