"""The realtime publisher's settings, in the units that it works in. Knows the config's fields and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from penstock.pipeline.config import RealtimeConfig
from penstock.pipeline.core.times import parse_duration


@dataclass(frozen=True, slots=True, kw_only=True)
class RealtimeSettings:
    """See `RealtimeConfig` for what each one means."""

    linger_s: float = 0.002
    record_bytes: int = 512 << 10
    queue_bytes: int = 256 << 20
    overflow: Literal["block", "shed", "priority"] = "block"
    max_staleness_us: int = 10_000_000
    sketched_keys: int = 1 << 20
    beat_us: int = 1_000_000
    flush_timeout_s: float = 30.0
    reserve_us: int = 0
    skew_us: int = 600_000_000
    touched_keys: int = 50_000_000
    on_restart: Literal["keep", "undo"] = "keep"

    @classmethod
    def of(cls, config: RealtimeConfig) -> RealtimeSettings:
        return cls(
            linger_s=config.linger_ms / 1000, record_bytes=config.record_bytes, queue_bytes=config.queue_bytes,
            overflow=config.overflow, max_staleness_us=parse_duration(config.max_staleness), sketched_keys=config.sketched_keys,
            beat_us=parse_duration(config.beat),
            flush_timeout_s=parse_duration(config.flush_timeout) / 1e6, reserve_us=parse_duration(config.reserve_ahead),
            skew_us=parse_duration(config.max_event_skew), touched_keys=config.touched_keys, on_restart=config.on_restart,
        )  # fmt: skip
