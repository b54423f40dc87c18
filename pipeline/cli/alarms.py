"""What is wrong with a model as far as one look shows it: the conditions of monitoring/alerts.yml, under the names that they have
there. What needs a while to be told (rates, how long it has been so) is for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from .output import human_seconds

if TYPE_CHECKING:
    from .overview import ReplicaDocument, StatusDocument

STALE_S = 900.0
LATE_S = 5.0
BEHIND = 3
RETENTION_USED = 0.75
SILENT_S = 60.0
UNDECIDED_S = 300.0


class Alarm(NamedTuple):
    """`alert`: the name of the rule, which docs/runbook.md has a section for."""

    alert: str
    text: str


def alarms(found: StatusDocument) -> Iterator[Alarm]:
    """`found` without its alarms."""
    if found.freshness_s is not None and found.freshness_s > STALE_S:
        yield Alarm("PenstockFreshnessStale", f"what is served has learned nothing for {human_seconds(found.freshness_s)}")
    for replica in found.replicas:
        yield from _of_replica(replica, found)
    for name in found.silent:
        yield Alarm("PenstockReplicaSilent", f"{name} does not report any more, and never said that it leaves")
    if found.digests_agree is False:
        yield Alarm("PenstockDigestsDisagree", "replicas at the same version have different digests")
    if found.rollback_under_way is not None and found.rollback_open_s is not None:
        since = human_seconds(found.rollback_open_s)
        text = f"a rollback to timeline {found.rollback_under_way}, by {found.rollback_by}, is not decided, for {since} now"
        yield Alarm("PenstockRollbackOpen", text)
    for name, ref in found.refs.items():
        if ref.frozen is not None:
            yield Alarm("PenstockFrozen", f"{name} is frozen")
    if found.chain is not None and found.chain > found.max_chain:
        yield Alarm("PenstockChainTooLong", f"a newcomer loads {found.chain} versions, more than {found.max_chain}")
    if found.retention_used > RETENTION_USED:
        share = f"{found.retention_used:.0%}"
        yield Alarm("PenstockLogHeadroomLow", f"the live version's age is {share} of the log's retention: a delta is due")
    if lost := [each.partition for each in found.log if each.headroom < 0]:
        text = f"the log does not hold the live version's positions any more, in partition {', '.join(map(str, lost))}"
        yield Alarm("PenstockLogHeadroomLow", text)
    if found.recovery_reach_s is not None and found.recovery_reach_s < found.recovery_window_s:
        reach, window = human_seconds(found.recovery_reach_s), human_seconds(found.recovery_window_s)
        yield Alarm("PenstockRecoveryWindowShort", f"a rollback can go back {reach}, and should {window}")
    silence = max((each.silence_s for each in found.log if each.silence_s is not None), default=0.0)
    if found.publishers and silence > SILENT_S:
        yield Alarm("PenstockPublisherSilent", f"the log has taken nothing for {human_seconds(silence)}")
    for care in found.care:
        if not care.ok:
            yield Alarm("PenstockCareFailed", f"{care.work} failed: {care.found}")


def _of_replica(replica: ReplicaDocument, found: StatusDocument) -> Iterator[Alarm]:
    if not replica.ready:
        yield Alarm("PenstockReplicaNotReady", f"{replica.replica} is not ready")
    for each in replica.partitions:
        if each.alarm:
            yield Alarm("PenstockPartitionStopped", f"{replica.replica}, partition {each.partition}: {each.alarm}")
    late = max((each.lag_ms for each in replica.partitions if each.lag_ms is not None), default=0.0) / 1000
    if late > LATE_S:
        yield Alarm("PenstockUpdateLagHigh", f"{replica.replica} is {human_seconds(late)} behind the log")
    ref = found.refs.get(replica.ref)
    if replica.versions_behind > BEHIND and not (ref is not None and ref.frozen is not None):
        yield Alarm("PenstockVersionsBehind", f"{replica.replica} is {replica.versions_behind} versions behind")
