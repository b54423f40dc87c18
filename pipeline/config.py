"""The configuration file: TOML, strict. What is asked for here about buckets, partitions, dims and codecs is a request; the
catalog has what was frozen at birth, and a difference is refused."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from .core.errors import InvalidInput, NotFound
from .core.ids import checked_name
from .core.times import parse_duration, parse_time

ENVIRONMENT = "PENSTOCK_CONFIG"
DEFAULT = "penstock.toml"

DURATIONS = {
    "realtime": ("max_staleness", "beat", "flush_timeout", "reserve_ahead", "max_event_skew"),
    "replica": ("refresh", "lease", "max_silence", "max_lag", "max_wait", "drain_grace"),
    "client": ("timeout",),
    "inference": ("near_expiry", "max_lag", "recount", "compare", "patience"),
    "recovery": ("window",),
    "retention": ("publish_deadline",),
}
"""The keys whose values are durations, such as "10m"."""
SCHEDULED = (
    "max_freshness", "snapshot_deadline", "delta_deadline", "care_deadline", "approval_timeout", "confirm_timeout", "retry_delay",
)  # fmt: skip
"""Those of a model's schedule."""

Positive = Annotated[int, msgspec.Meta(ge=1)]
NotNegative = Annotated[int, msgspec.Meta(ge=0)]


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One table of the file."""


class StoreConfig(Section, frozen=True, kw_only=True):
    """`url`: "file:///folder" or "s3://bucket/prefix"; `endpoint`: of an S3 server of one's own."""

    url: str
    endpoint: str | None = None


class LogConfig(Section, frozen=True, kw_only=True):
    """`url`: "file:///folder" or "kafka://host:port,host:port". `options` go to the client as they are (SASL, TLS).
    `replicas` and `min_insync_replicas` are what a topic must have, and is made with."""

    url: str
    partitions: Positive = 8
    replicas: Positive = 1
    min_insync_replicas: Positive = 1
    fsync: Literal["always", "batch", "never"] = "batch"
    options: dict[str, str] = {}

    def __repr__(self) -> str:
        """Without the values of the options, of which one may be a password."""
        shown = {name: getattr(self, name) for name in self.__struct_fields__} | {"options": sorted(self.options)}
        return f"LogConfig({', '.join(f'{name}={value!r}' for name, value in shown.items())})"


Tensors = str | list[str]
"""A tensor, or several that are parts of one: a list, or a name with a `*` for the number of the part."""


class DeltaTensors(Section, frozen=True, kw_only=True):
    """Where a checkpoint that holds only what changed has the table: `keys` and `rows`, and the keys that are `deleted`."""

    keys: Tensors
    rows: Tensors
    deleted: str | None = None


class TableConfig(Section, frozen=True, kw_only=True):
    """Which tensors hold the table: `tensor`, whose row numbers are the keys, or `keys` and `rows`.

    `partition` says how the parts of a `tensor` are numbered: "slice", one after the other, or "modulo", row r of part i of n
    is number r * n + i. `vocabulary` gives the keys of its rows: a 1-D tensor, or a file beside the checkpoint. `key_type`: texts
    are parsed as "int64", or hashed as a "string" and kept. `delta`: where checkpoints of changes alone have it, if elsewhere.
    `dim` is what its rows must have, where a snapshot of other rows would be a mistake. A `retired` table needs no tensors: the
    next publish deletes its rows."""

    tensor: Tensors | None = None
    partition: Literal["slice", "modulo"] = "slice"
    vocabulary: str | None = None
    keys: Tensors | None = None
    rows: Tensors | None = None
    key_type: Literal["int64", "string"] | None = None
    delta: DeltaTensors | None = None
    dim: Positive | None = None
    codec: str = "float32"
    absent: Literal["zeros", "refuse"] | list[float] = "zeros"
    retired: bool = False

    def __post_init__(self) -> None:
        if self.retired and self.tensor is None and self.keys is None and self.rows is None:
            return
        by_number, by_key = self.tensor is not None, self.keys is not None and self.rows is not None
        if by_number == by_key or (self.keys is None) != (self.rows is None):
            raise ValueError('give either "tensor", or "keys" and "rows"')
        if not by_number and (self.partition != "slice" or self.vocabulary is not None):
            raise ValueError('"partition" and "vocabulary" are for a "tensor" whose rows are numbered')


CRON_FIELD = re.compile(r"[0-9A-Za-z*,/#?-]+")


class ScheduleConfig(Section, frozen=True, kw_only=True):
    """What the DAGs of a model do. `snapshot`, `delta`, `retention` and `verification` are cron expressions, in `timezone`.

    `checkpoints`: a pattern of the paths at which the trainer leaves them; without it deltas come from the log, and there are no
    snapshots. `parts`: how many tasks slice a snapshot, or restore a version, side by side. `catchup_from`: a time from which on
    missed intervals are made up for, a run each; without it the newest run stands for all. `max_freshness`: how old what is
    served may be. `snapshot_deadline`, `delta_deadline`, and `care_deadline` of the other runs: an alarm is raised about one that
    has not ended then. Alarms are posted to `alarm_url`.

    `approvers`: the ids of the users who may approve a rollback, by default all who may use its page; what is not approved in
    `approval_timeout` is refused. `confirm_timeout`: how long a rollback waits for its replicas. Tasks that commit are in `pool`,
    those that slice and restore in `slicing_pool`."""

    checkpoints: str | None = None
    snapshot: str = "17 3 * * *"
    delta: str = "*/10 * * * *"
    retention: str = "47 4 * * *"
    verification: str = "23 5 * * *"
    timezone: str = "UTC"
    catchup_from: str | None = None
    parts: Positive = 1
    max_freshness: str | None = None
    snapshot_deadline: str = "6h"
    delta_deadline: str = "30m"
    care_deadline: str = "6h"
    alarm_url: str | None = None
    approvers: list[str] = []
    approval_timeout: str = "1h"
    confirm_timeout: str = "10m"
    retries: NotNegative = 5
    retry_delay: str = "30s"
    pool: str = "default_pool"
    slicing_pool: str = "default_pool"

    def __post_init__(self) -> None:
        for name in ("snapshot", "delta", "retention", "verification"):
            fields = getattr(self, name).split()
            if len(fields) not in (5, 6) or not all(CRON_FIELD.fullmatch(each) for each in fields):
                raise ValueError(f'"{name}" is no cron expression: minute hour day month weekday, as in "17 3 * * *"')
        try:
            if self.timezone != "UTC":  # which needs no database of zones
                ZoneInfo(self.timezone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(f'"timezone" {self.timezone!r} is not known') from None


class ModelConfig(Section, frozen=True, kw_only=True):
    """`dense`: patterns of the tensors that make the dense slice; by default whatever looks dense and is no table's.
    `optimizer`: "leave" it out, or "archive" the trainer's checkpoint beside the slices."""

    tables: dict[str, TableConfig] = {}
    buckets: Positive = 256
    dense: list[str] | None = None
    optimizer: Literal["leave", "archive"] = "leave"
    schedule: ScheduleConfig = ScheduleConfig()


class RealtimeConfig(Section, frozen=True, kw_only=True):
    """The publisher in the trainer's process. `queue_bytes` bounds what waits to be acknowledged; at the bound `put` waits
    ("block"), or rows stay for the next delta: those that come ("shed"), or those that matter least ("priority"), where what
    matters most goes first, and before it what has waited for `max_staleness`; `sketched_keys` of each table are remembered.
    `reserve_ahead` is needed once two publishers share a model."""

    linger_ms: NotNegative = 2
    record_bytes: Positive = 512 * 1024
    queue_bytes: Positive = 256 * 1024 * 1024
    overflow: Literal["block", "shed", "priority"] = "block"
    max_staleness: str = "10s"
    sketched_keys: Positive = 1 << 20
    beat: str = "1s"
    flush_timeout: str = "30s"
    reserve_ahead: str = "0s"
    max_event_skew: str = "10m"
    touched_keys: Positive = 50_000_000
    on_restart: Literal["keep", "undo"] = "keep"


class ReplicaConfig(Section, frozen=True, kw_only=True):
    """`markers`: how many outstanding markers are remembered. `before_image_bytes` bounds what serving an older version, and
    undoing in memory, may hold. `row_bytes`: memory for rows; tables that do not fit stay in the files of a store that is a
    folder. By default all come in. A replica is not ready while it is cut off from store or log for `max_silence`, or behind for
    `max_lag`; a trainer that is silent makes nobody unready.

    `max_calls` are open at once, `max_running` of them look up (0: one a core), `max_waiting` wait, none longer than `max_wait`;
    `max_reply_bytes` bounds the answers that are not sent yet. A replica that is told to end goes on answering for `drain_grace`.
    With `tls_cert` and `tls_key` (PEM files) it serves TLS, with `tls_client_ca` only to clients with a certificate of that
    authority, with `token_file`, or tokens in the environment, only to those who send one of them."""

    markers: Positive = 8
    before_image_bytes: NotNegative = 256 * 1024 * 1024
    row_bytes: NotNegative | None = None
    refresh: str = "200ms"
    lease: str = "10s"
    max_silence: str = "60s"
    max_lag: str = "60s"
    max_request_keys: Positive = 4_000_000
    max_reply_bytes: Positive = 1 << 30
    max_calls: Positive = 1024
    max_running: NotNegative = 0
    max_waiting: NotNegative = 64
    max_wait: str = "1s"
    drain_grace: str = "5s"
    tls_cert: str | None = None
    tls_key: str | None = None
    tls_client_ca: str | None = None
    token_file: str | None = None

    def __post_init__(self) -> None:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError('"tls_cert" and "tls_key" come together')
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise ValueError('"tls_client_ca" needs "tls_cert" and "tls_key"')


class ClientConfig(Section, frozen=True, kw_only=True):
    """Of those who ask. Replicas are at `urls`, or wherever the name in `dns` leads, as in "grpc://penstock-retail:8815"; else
    those count that report to the catalog. `timeout` of a lookup, all its tries together; second tries for slow first ones are at
    most `hedge_percent` of all. `tls_root`: whom to trust; `tls_cert` and `tls_key`: what to show; `token_file`: what to send."""

    urls: list[str] = []
    dns: str | None = None
    timeout: str = "10s"
    hedge_percent: Annotated[float, msgspec.Meta(ge=0, le=100)] = 5.0
    tls_root: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    token_file: str | None = None

    def __post_init__(self) -> None:
        if self.urls and self.dns is not None:
            raise ValueError('give either "urls" or "dns"')
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError('"tls_cert" and "tls_key" come together')


class InferenceConfig(Section, frozen=True, kw_only=True):
    """Of the inference node, in the process of those who score. `hot_bytes` and `near_bytes` bound the rows kept there;
    `near_expiry`: how long a row that was asked for counts. Hot rows that are further than `max_lag` behind the log are asked for
    as well. `recount`: how often the hot keys are chosen anew from what was asked for; `compare`: how often some hot rows are
    compared with the cluster's. `patience`: how long after a rollback the rows before it count, while no replica is known to have
    gone back. `transform`: the plug-in that makes keys of raw features."""

    hot_bytes: NotNegative = 256 * 1024 * 1024
    near_bytes: NotNegative = 64 * 1024 * 1024
    near_expiry: str = "1m"
    max_lag: str = "1s"
    recount: str = "30s"
    compare: str = "10s"
    patience: str = "2s"
    transform: str | None = None


class RecoveryConfig(Section, frozen=True, kw_only=True):
    """`window`: how far back a rollback must be able to go."""

    window: str = "7d"


class RetentionConfig(Section, frozen=True, kw_only=True):
    """`publish_deadline`: an upload older than this that no version names is given up. `max_chain`: compaction is due beyond."""

    publish_deadline: str = "1d"
    max_chain: Positive = 24


class MetricsConfig(Section, frozen=True, kw_only=True):
    """Where a trainer's process tells its metrics: `listen` is "host:port"; by default nowhere."""

    listen: str | None = None


class Config(Section, frozen=True, kw_only=True):
    store: StoreConfig
    log: LogConfig
    models: dict[str, ModelConfig] = {}
    realtime: RealtimeConfig = RealtimeConfig()
    replica: ReplicaConfig = ReplicaConfig()
    client: ClientConfig = ClientConfig()
    inference: InferenceConfig = InferenceConfig()
    recovery: RecoveryConfig = RecoveryConfig()
    retention: RetentionConfig = RetentionConfig()
    metrics: MetricsConfig = MetricsConfig()

    def model_name(self, asked: str | None) -> str:
        """The model meant: the one asked for, or the only one there is."""
        if asked is None and len(self.models) == 1:
            return next(iter(self.models))
        names = ", ".join(sorted(self.models)) or "none"
        if asked is None:
            raise InvalidInput(f"which model? The config has {names}", hint="say --model NAME")
        if asked not in self.models:
            raise InvalidInput(f"no model {asked!r} in the config (models: {names})")
        return asked


def microseconds(duration: str) -> int:
    return parse_duration(duration)


def config_path(asked: Path | None) -> Path:
    return asked or Path(os.environ.get(ENVIRONMENT) or DEFAULT)


def load_config(path: Path) -> Config:
    """The file, checked; `InvalidInput` names the key, `NotFound` the file."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        hint = f"say --config FILE, set {ENVIRONMENT}, or write {DEFAULT} (the README has one)"
        raise NotFound(f"no config at {path}", hint=hint) from None
    return parse_config(text, str(path))


def parse_config(text: str, name: str) -> Config:
    """The config in `text`; errors name the key. `name` says where it stands."""
    try:
        raw = tomllib.loads(text)
        config = msgspec.convert(raw, Config)
    except tomllib.TOMLDecodeError as error:
        raise InvalidInput(f"{name}: not TOML: {error}") from None
    except msgspec.ValidationError as error:
        found = re.sub(r" - at `\$\.?([^`]*)`", lambda at: f" (at {_named(raw, at[1]) or 'the top'})", str(error))
        raise InvalidInput(f"{name}: {found}") from None
    for section, keys in DURATIONS.items():
        for key in keys:
            _check(parse_duration, getattr(getattr(config, section), key), name, f"{section}.{key}")
    for model, settings in config.models.items():
        for key in SCHEDULED:
            _check(parse_duration, getattr(settings.schedule, key), name, f"models.{model}.schedule.{key}")
        _check(parse_time, settings.schedule.catchup_from, name, f"models.{model}.schedule.catchup_from")
        checked_name(model, "model")
        for table in settings.tables:
            checked_name(table, "table")
    return config


def _check(parse: Callable[[str], int], text: str | None, name: str, key: str) -> None:
    """`InvalidInput` names the key, unless what is given can be parsed."""
    try:
        if text is not None:
            parse(text)
    except InvalidInput as error:
        raise InvalidInput(f"{name}: {error} (at {key})", hint=error.hint) from None


def _named(raw: dict[str, Any], path: str) -> str:
    """`path` of what is wrong, with the names of the model and the table in place of "[...]"."""
    if "[...]" not in path or not path.startswith("models"):
        return path
    models = {model: settings for model, settings in raw["models"].items() if isinstance(settings, dict)}
    for model, settings in models.items():
        tables = settings.get("tables", {})
        for table, found in tables.items() if isinstance(tables, dict) else ():
            if _is_wrong(found, TableConfig):
                return path.replace("models[...].tables[...]", f"models.{model}.tables.{table}")
    wrong = next((model for model, settings in models.items() if _is_wrong(settings, ModelConfig)), "[...]")
    return path.replace("models[...]", f"models.{wrong}")


def _is_wrong(raw: object, kind: type[Section]) -> bool:
    try:
        msgspec.convert(raw, kind)
    except msgspec.ValidationError:
        return True
    return False
