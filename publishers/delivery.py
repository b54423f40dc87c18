"""What a trainer's process opens: one model, under one publisher's id, from the state that the trainer was loaded from. It joins
the realtime tier with the publishing of checkpoints, and leaves both to those who know how."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from penstock.pipeline.config import Config, MetricsConfig, config_path, load_config
from penstock.pipeline.core.checkpoint import Sidecar, decode_sidecar
from penstock.pipeline.core.errors import InvalidInput, NotFound, NotResumable, Refused
from penstock.pipeline.core.ids import PublisherId, State, checked_name
from penstock.pipeline.core.manifest import Manifest
from penstock.pipeline.core.text_keys import Texts
from penstock.pipeline.core.times import WallTime, event_time
from penstock.pipeline.environment import Environment, create_environment
from penstock.pipeline.exposition import Exposition, MetricsServer
from penstock.pipeline.plain_http import host_and_port
from penstock.pipeline.ports.wall_clock import system_clock
from penstock.slicer.row_source import Keys, Rows
from penstock.slicer.sidecar import find_sidecar

from . import delta, folding, snapshot
from .commits import PROMOTE
from .errors_counted import ErrorCounts, counted
from .metrics import PublisherMetrics
from .resuming import resume as resume_publisher
from .settings import RealtimeSettings
from .sources import Source, array_source, checkpoint_source
from .updates import Moment, RowsOf, Updates


class Fresh(Enum):
    """Nothing was loaded: the trainer starts from an empty model."""

    FRESH = "fresh"


FRESH: Literal[Fresh.FRESH] = Fresh.FRESH
Resume = Sidecar | str | Path | Fresh
Arrays = Mapping[str, tuple[Keys | Texts, Rows]]


class Delivery:
    """Open it with `with`. Publishing and the realtime tier may be used side by side, from any thread."""

    def __init__(self, environment: Environment, updates: Updates, closing: ExitStack) -> None:
        self._environment, self._updates, self._closing, self._closed = environment, updates, closing, False
        self.metrics = PublisherMetrics(environment, updates)
        """For a process that tells its metrics already: register it with that registry. Else say `listen` in `[metrics]`."""

    @classmethod
    def open(
        cls,
        config: Config | str | Path | None = None,
        *,
        publisher: str,
        resume: Resume,
        model: str | None = None,
        rows_of: RowsOf | None = None,
        clock: Callable[[], WallTime] = system_clock,
    ) -> Delivery:
        """The model of the config (a file, or $PENSTOCK_CONFIG), born if it is new. `resume`: the sidecar of the checkpoint that
        the trainer was loaded from, the path of either, or FRESH. `rows_of` gives the trainer's rows (see `Updates.undo`), where
        `on_restart` is "undo". `NotResumable` names the state to load instead. An incarnation that still runs is superseded."""
        checked_name(publisher, "publisher")
        settings = config if isinstance(config, Config) else load_config(config_path(None if config is None else Path(config)))
        name, realtime = settings.model_name(model), RealtimeSettings.of(settings.realtime)
        state = resume_state(resume, name)
        if realtime.on_restart == "undo" and rows_of is None:
            raise InvalidInput('on_restart is "undo", which needs the trainer\'s rows', hint="give rows_of to Delivery.open")
        with ExitStack() as closing:
            exposition = _exposed(settings.metrics, closing)
            environment = closing.enter_context(create_environment(settings, name, clock=clock, who=publisher))
            updates = Updates(environment, resume_publisher(environment, PublisherId(publisher), state, realtime), realtime)
            closing.callback(updates.close)
            if realtime.on_restart == "undo" and rows_of is not None:
                updates.undo(rows_of)
            found = cls(environment, updates, closing.pop_all())
            exposition.add(found.metrics)
            return found

    def __enter__(self) -> Delivery:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if error is None and not self._closed:
                self._updates.flush()
        finally:
            self.close()

    def close(self) -> None:
        """Without a flush: what is not acknowledged may be lost. Leaving the `with` block flushes before."""
        self._closed = True
        self._closing.close()

    @property
    def environment(self) -> Environment:
        return self._environment

    @property
    def errors(self) -> ErrorCounts:
        return self._updates.errors

    def updates(self) -> Updates:
        """The realtime tier."""
        return self._updates

    @counted
    def publish_snapshot(
        self,
        checkpoint: str | Path | Arrays,
        *,
        dense: Mapping[str, NDArray[np.generic]] | None = None,
        sidecar: Sidecar | None = None,
        trained_through: Moment | None = None,
        promote: tuple[str, ...] = PROMOTE,
        why: str = "",
    ) -> Manifest:
        """Publishes the whole model: a checkpoint on disk, or per table int64[n] keys, or n texts, and float32[n, dim] rows, with
        the `dense` tensors. A checkpoint without a sidecar, given or beside it, is marked now; `Refused` if rows were put since
        the last mark, as nobody could say whether it has them. Arrays without one are what the trainer has now."""
        placed = self._placed(checkpoint, sidecar, trained_through)
        with self._source(checkpoint, dense) as source:
            return self._counted(snapshot.publish_snapshot(self._environment, source, sidecar=placed, promote=promote, why=why))

    @counted
    def publish_delta(
        self,
        checkpoint: str | Path | Arrays,
        *,
        dense: Mapping[str, NDArray[np.generic]] | None = None,
        sidecar: Sidecar | None = None,
        trained_through: Moment | None = None,
        promote: tuple[str, ...] = PROMOTE,
        why: str = "",
    ) -> Manifest:
        """Publishes what changed since the newest version; arguments as of `publish_snapshot`."""
        placed = self._placed(checkpoint, sidecar, trained_through)
        with self._source(checkpoint, dense) as source:
            return self._counted(delta.publish_delta(self._environment, source, sidecar=placed, promote=promote, why=why))

    @counted
    def publish_delta_from_log(self, *, promote: tuple[str, ...] = PROMOTE, why: str = "") -> Manifest:
        """Publishes the newest marked checkpoint from the rows that were put; `Refused` when some of them were not sent."""
        return self._counted(folding.publish_delta_from_log(self._environment, promote=promote, why=why))

    def _counted(self, manifest: Manifest) -> Manifest:
        self.metrics.committed[manifest.kind] += 1
        return manifest

    def _placed(self, checkpoint: str | Path | Arrays, sidecar: Sidecar | None, trained_through: Moment | None) -> Sidecar:
        found = sidecar if sidecar is not None else _sidecar_beside(checkpoint)
        if found is not None and found.state:
            return found
        if isinstance(checkpoint, str | Path) and not self._updates.marked:
            raise Refused(
                f"rows were put since the last mark, and it is not known whether {checkpoint} has them",
                hint="save the sidecar of updates.mark() beside the checkpoint when it is written",
            )
        through = trained_through if trained_through is not None else (None if found is None else found.through())
        self._updates.advance(None if through is None else event_time(through))
        return self._updates.mark(step=0 if found is None else found.step)

    @contextmanager
    def _source(self, checkpoint: str | Path | Arrays, dense: Mapping[str, NDArray[np.generic]] | None) -> Iterator[Source]:
        model = self._environment.model
        if isinstance(checkpoint, str | Path):
            if dense is not None:
                raise InvalidInput(f"the dense slice is in {checkpoint}; tensors go with rows in memory")
            with checkpoint_source(Path(checkpoint), model) as source:
                yield source
        else:
            yield array_source(checkpoint, dense or {}, model)


def _exposed(settings: MetricsConfig, closing: ExitStack) -> Exposition:
    """What is told where the settings say, if they do, until `closing`."""
    exposition = Exposition()
    if settings.listen is not None:
        host, port = host_and_port(settings.listen, "metrics.listen")
        closing.callback(MetricsServer(exposition, host=host, port=port).close)
    return exposition


def resume_state(resume: Resume, model: str) -> State | None:
    """The state that is meant; None for a fresh start. `NotResumable` when the sidecar does not name one, or another model's."""
    if isinstance(resume, Fresh):
        return None
    name = "the sidecar" if isinstance(resume, Sidecar) else str(resume)
    sidecar = resume if isinstance(resume, Sidecar) else read_sidecar(Path(resume))
    if sidecar.model and sidecar.model != model:
        raise NotResumable(f"{name} is of model {sidecar.model!r}, not {model!r}")
    if not sidecar.state:
        raise NotResumable(f"{name} names no state", hint="resume from a checkpoint that updates.mark() gave a sidecar for")
    return State.parse(sidecar.state)


def read_sidecar(path: Path) -> Sidecar:
    """The sidecar at `path`, or beside the checkpoint at `path`."""
    found = path if path.is_file() and path.name.endswith("penstock.json") else find_sidecar(path)
    if found is None:
        raise NotFound(f"{path} has no sidecar", hint="penstock.json inside its folder, or <file>.penstock.json beside it")
    return decode_sidecar(found.read_bytes(), str(found))


def _sidecar_beside(checkpoint: str | Path | Arrays) -> Sidecar | None:
    if not isinstance(checkpoint, str | Path):
        return None
    found = find_sidecar(Path(checkpoint))
    return None if found is None else decode_sidecar(found.read_bytes(), str(found))
