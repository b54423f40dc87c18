"""The story of a fleet, short: real servers, three tiers by schedule, poison, freeze and rollback by DAG with its approval."""

from __future__ import annotations

import msgspec
import pytest
from servers.kafka import skip_or_fail

from penstock.examples.fleet.acts import FALLEN, SHORT
from penstock.examples.fleet.figures import Figures, figures_table
from penstock.examples.fleet.story import run_fleet
from penstock.pipeline.core.errors import Unsupported

pytestmark = [
    pytest.mark.airflow, pytest.mark.slow, pytest.mark.s3, pytest.mark.kafka, pytest.mark.timeout(1800),
]  # fmt: skip


def test_three_tiers_flow_are_poisoned_and_go_back(tmp_path):
    try:
        found = run_fleet(output=tmp_path, script=SHORT)
    except Unsupported as missing:
        skip_or_fail(missing)
    back, auc = found.rollback, found.auc
    assert auc.before > 0.75
    assert auc.poisoned < auc.before - FALLEN
    assert auc.after > auc.before - FALLEN / 2
    assert set(back.confirmed) == {"replica-0", "replica-1"}
    assert set(back.confirmed.values()) == {back.verified}
    assert set(found.final_digests) == {"replica-0", "replica-1", "replica-2"}
    assert len(set(found.final_digests.values())) == 1
    assert back.timeline == 2
    assert back.lost_rows > 0
    assert back.lost_versions
    assert f"timeline {back.timeline}" in back.trainer_told

    kinds = {kind: [v for v in found.versions if v.kind == kind] for kind in ("snapshot", "delta", "rollback")}
    assert [v.version for v in kinds["rollback"]] == [back.version]
    assert any(v.timeline == 1 for v in kinds["delta"])
    assert any(v.timeline == 2 for v in kinds["delta"])
    assert kinds["snapshot"]
    assert all(v.who.startswith("airflow:penstock_retail_") for v in found.versions if v.who)
    assert all(v.timeline == 1 and v.version < back.version for v in found.versions if v.version in back.lost_versions)
    assert found.runs["penstock_retail_rollback"] == {"success": 1}
    assert found.runs["penstock_retail_freeze"] == {"success": 1}
    (moved,) = [line for line in found.moves if f"airflow:{back.run} by operator" in line]
    assert "(a release of the client swaps labels (approved by operator))" in moved
    assert 0 < found.lag.p50_ms <= found.lag.p99_ms
    assert found.lag.rows > 1000
    assert found.lag_after.rows > 100

    assert msgspec.json.decode((tmp_path / "report.json").read_bytes(), type=Figures) == found
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
    assert figures_table(found).row_count > 15
