import os
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from penstock.examples.retail.demo import run_demo
from penstock.examples.retail.story import SHORT

pytestmark = pytest.mark.slow


def check(figures, output):
    proof, auc, back = figures.proof, figures.auc, figures.rollback
    assert set(proof.served) == {"replica-0", "replica-1", "replica-2"}
    assert {proof.remembered, proof.verified, *proof.stated.values(), *proof.served.values()} == {proof.remembered}
    assert len(set(figures.final_digests.values())) == 1
    assert set(figures.final_digests) == set(proof.served)
    assert set(figures.final_digests.values()) != {proof.remembered}
    assert proof.late_records > 0
    assert all(count >= proof.late_records for count in proof.late_ignored.values())
    assert proof.fenced_rows > 0
    assert "timeline 2" in proof.fenced
    assert auc.before > 0.8
    assert auc.poisoned < auc.before - 0.2
    assert auc.again > auc.before - 0.05
    assert auc.recovered > auc.before - 0.05
    assert auc.recovered > auc.unhealed
    assert figures.behind_batches.p50 <= 1
    assert back.timeline == 2
    assert 0 < back.fenced_s < back.replicas_s <= back.command_s
    assert back.rows_lost > back.rows_restored > 0
    assert figures.lag_ms.samples > 50
    assert 0 < figures.lag_ms.p50 <= figures.lag_ms.p99
    assert figures.tiers["snapshot"].writes == 1
    assert figures.tiers["delta"].writes > 3
    assert figures.tiers["update"].rows > figures.tiers["delta"].rows
    assert sorted(path.name for path in output.iterdir()) == ["report.html", "report.png"]
    assert proof.remembered[:16] in Path(figures.page).read_text()
    assert Path(figures.picture).read_bytes().startswith(b"\x89PNG")
    assert msgspec.json.decode(msgspec.json.encode(figures), type=type(figures)) == figures


def children():
    """Processes of ours that run, or ended without anybody's looking."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text()
        except OSError:
            continue
        if int(text.rpartition(")")[2].split()[1]) == os.getpid():
            found.add(int(stat.parent.name))
    return found


def test_the_story_on_embedded_defaults(tmp_path):
    before = children()
    figures = run_demo(output=tmp_path / "report", script=SHORT)
    check(figures, tmp_path / "report")
    assert figures.store.startswith("file:///")
    assert not Path(figures.store.removeprefix("file://")).exists()
    assert children() == before


def test_a_story_that_fails_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("penstock.examples.retail.acts.REASON", "")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    before = children()
    with pytest.raises(Exception, match="needs a reason"):
        run_demo(output=tmp_path / "report", script=replace(SHORT, online=715))
    assert children() == before
    assert list(tmp_path.iterdir()) == []


@pytest.mark.s3
@pytest.mark.kafka
def test_the_story_on_real_servers(tmp_path, s3_server, s3_bucket, kafka_server):
    store, log = f"s3://{s3_bucket}/demo", f"kafka://{kafka_server}"
    figures = run_demo(output=tmp_path, store=store, endpoint=s3_server, log=log, script=SHORT)
    check(figures, tmp_path)
    assert (figures.store, figures.log) == (store, log)
