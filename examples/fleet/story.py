"""A fleet in minutes: Airflow, broker, S3 server, trainer and replicas on this machine; three tiers by schedule; poison;
freeze and rollback through their DAGs, with an approval; and the evidence."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path

import msgspec
from rich.console import Console

from penstock.examples.retail.live import Lines
from penstock.examples.retail.model import TABLES
from penstock.examples.retail.staging import config_text, open_stage
from penstock.pipeline.core.times import WallTime

from .acts import MODEL, Play, Script
from .evidence import move_lines, version_lines
from .figures import Figures, Quality
from .picture import draw
from .servers import Servers, running_airflow, running_servers


def run_fleet(*, output: Path, script: Script) -> Figures:
    """Plays the story, and leaves `report.json` and `report.png` in `output`. Errors: `Unsupported` says which server cannot be
    had here, `PenstockError` what went wrong in the story."""
    output.mkdir(parents=True, exist_ok=True)
    screen = Lines(Console(stderr=True, highlight=False))
    with ExitStack() as closing:
        folder = Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="penstock-fleet-")))
        screen.act("A Kafka broker, an S3 server, and Airflow")
        servers = closing.enter_context(running_servers(folder))
        stage = closing.enter_context(open_stage(folder, _config(servers, script, folder)))
        airflow = closing.enter_context(running_airflow(folder, stage.config))
        play = Play(stage, airflow, script, screen, closing, failed=output / "failed.log")
        play.begin()
        before = play.flow()
        poisoned = play.poison(before)
        play.freeze()
        back = play.roll_back()
        after, final = play.recover(back)
        lag, lag_after = play.lag()
        found = Figures(
            seconds=play.now_s(), lag=lag, lag_after=lag_after, runs=play.runs(), rollback=back,
            versions=version_lines(play.env, began=WallTime(play.env.clock() - int(play.now_s() * 1e6))),
            auc=Quality(
                before=before, poisoned=poisoned, frozen=play.frozen_auc, after=after, end=play.scorer.points[-1].auc
            ),
            final_digests=final, moves=move_lines(play.env), picture=str(output / "report.png"),
        )  # fmt: skip
        draw(output / "report.png", play.scorer.points, found.versions, play.shown())
    (output / "report.json").write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1))
    return found


def _config(servers: Servers, script: Script, folder: Path) -> str:
    store, log = f"s3://{servers.bucket}/fleet", f"kafka://{servers.kafka}"
    text = config_text(model=MODEL, tables=TABLES, store=store, log=log, endpoint=servers.s3)
    return f"""{text}
[models.{MODEL}.schedule]
checkpoints = "{folder}/checkpoints/step_*.safetensors"
delta = "{script.delta}"
snapshot = "{script.snapshot}"
verification = "{script.care}"
retention = "{script.care}"
retry_delay = "1s"
[replica]
refresh = "50ms"
[retention]
max_chain = 6
"""
