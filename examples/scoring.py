"""An inference service that scores the retail model in its own process: hot rows and the dense slice beside the code that needs
them, a replica for the rest, while a trainer goes on learning. Run: `python -m penstock.examples.scoring`.

ids -> hot rows, near rows, rows of the cluster -> dot products of every pair -> two small networks -> probability of a purchase.
"""

from __future__ import annotations

import signal
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np

from penstock.pipeline.catalog import leases
from penstock.pipeline.config import load_config
from penstock.pipeline.core.errors import Unreachable
from penstock.pipeline.environment import Environment, create_environment
from penstock.publishers import FRESH, Delivery
from penstock.serving import Client
from penstock.serving.inference import InferenceNode, Inputs, read_frequencies
from penstock.slicer.sidecar import read_sidecar, sidecar_path

from .retail.checkpoint import write_checkpoint
from .retail.model import TABLES, Floats, score, time_context
from .retail.online import DENSE_PREFIX, PUBLISHER, DeliveringTrainer
from .retail.quality import auc
from .retail.staging import START_S, Command, Stage, awaited, config_text, open_stage
from .retail.story import SEED, story_stream
from .retail.stream import Batch, PurchaseStream, read_purchases
from .retail.trainer import OnlineTrainer, fresh_state

MODEL = "retail"
LEARNED, SCORED = 150, 60
"""Batches that are learned before anything is served, and that are scored then."""
HOT_BYTES, NEAR_BYTES = 192 * 1024, 64 * 1024
ARRIVAL_S = 30.0


@dataclass(slots=True)
class Measured:
    """Of every batch: how long its rows took in ms, from the node and from the cluster, and how long the trainer's row took to
    get here."""

    node_ms: list[float] = field(default_factory=list)
    cluster_ms: list[float] = field(default_factory=list)
    arrival_ms: list[float] = field(default_factory=list)
    labels: list[Floats] = field(default_factory=list)
    scores: list[Floats] = field(default_factory=list)


def scored(inputs: Inputs, batch: Batch) -> Floats:
    """float32[n]: the probability that each of n examples is bought."""
    dense = {name.removeprefix(DENSE_PREFIX): tensor.astype(np.float32) for name, tensor in inputs.dense.items()}
    return score(inputs.rows, time_context(batch.at), dense)


def write_frequencies(folder: Path, stream: PurchaseStream, checkpoint: Path) -> None:
    """What the trainer saw, beside its checkpoint: how often each key."""
    counts = {table: Counter[int]() for table in TABLES}
    for number in range(LEARNED):
        for table, keys in stream.batch(number).keys.items():
            counts[table].update(keys.tolist())
    files = {}
    for table, found in counts.items():
        files[table] = f"{table}.npz"
        np.savez(folder / files[table], keys=np.array(list(found), np.int64), counts=np.array(list(found.values()), np.int64))
    sidecar = read_sidecar(checkpoint)
    assert sidecar is not None
    sidecar_path(checkpoint).write_bytes(msgspec.structs.replace(sidecar, frequencies=files).encode())


def published(stage: Stage, stream: PurchaseStream, closing: ExitStack) -> tuple[DeliveringTrainer, Path]:
    """A trainer whose first snapshot is in the store, and its checkpoint."""
    trainer = OnlineTrainer(fresh_state(seed=SEED))
    for number in range(LEARNED):
        trainer.learn(stream.batch(number))
    delivery = closing.enter_context(Delivery.open(stage.config, publisher=PUBLISHER, resume=FRESH))
    path = stage.folder / "first.safetensors"
    write_checkpoint(path, trainer.state())
    sidecar = delivery.updates().mark(step=trainer.steps)
    sidecar_path(path).write_bytes(sidecar.encode())
    manifest = delivery.publish_snapshot(path, trained_through=trainer.trained_through)
    print(f"A trainer learned from {LEARNED} batches: version {manifest.version}, {manifest.rows:,} rows.")
    return DeliveringTrainer(trainer, delivery, stage.folder), path


def replica_of(stage: Stage, env: Environment) -> Command:
    """A replica in a process of its own, that is ready."""
    command = stage.start("replica", "--name", "replica-a", "--listen", "127.0.0.1:0")

    def is_ready() -> bool | None:
        command.running()
        return any(found.ready and found.address for found in leases.presences(env.catalog, now=env.clock())) or None

    awaited("the replica to start", is_ready, within_s=START_S)
    return command


def arrival_ms(node: InferenceNode, trainer: DeliveringTrainer, batch: Batch) -> float:
    """Learns from a batch: how long until the node gives the row that the trainer has of its first customer, in ms."""
    key = batch.keys["customer"][:1]
    trainer.learn(batch)
    began, wanted = time.perf_counter(), trainer.trainer.rows("customer", key)
    while not np.array_equal(node.inputs({"customer": key}).rows["customer"], wanted):
        if time.perf_counter() - began > ARRIVAL_S:
            raise Unreachable(f"the row of customer {key[0]} has not arrived in {ARRIVAL_S:.0f} s")
        time.sleep(0.0005)
    return (time.perf_counter() - began) * 1000


def online(node: InferenceNode, client: Client, trainer: DeliveringTrainer, stream: PurchaseStream) -> Measured:
    """Scores each batch before the trainer learns from it."""
    measured = Measured()
    for number in range(LEARNED, LEARNED + SCORED):
        batch = stream.batch(number)
        began = time.perf_counter()
        inputs = node.inputs(batch.keys)
        between = time.perf_counter()
        client.answers(batch.keys)
        ended = time.perf_counter()
        measured.node_ms.append((between - began) * 1000)
        measured.cluster_ms.append((ended - between) * 1000)
        measured.labels.append(batch.billed)
        measured.scores.append(scored(inputs, batch))
        measured.arrival_ms.append(arrival_ms(node, trainer, batch))
    return measured


def told(node: InferenceNode, measured: Measured, before: int) -> None:
    status, batch, proof = node.status(), measured.labels[0].size, node.status().proof
    hits = {source: count for source, count in status.hits.items() if count}
    quality = auc(np.concatenate(measured.labels), np.concatenate(measured.scores))
    rows = sum(table.rows for table in status.tables.values())
    lines = {
        "AUC": f"{quality:.3f}",
        "keys answered by": ", ".join(f"{source} {count / sum(hits.values()):.1%}" for source, count in hits.items()),
        "rows from this node": _spread(measured.node_ms),
        "all from the replica": _spread(measured.cluster_ms),
        "learned, till it counts": _spread(measured.arrival_ms),
        "hot rows": f"{rows:,}; began with version {before}, its next one came while they were read: {status.version}",
        "beside the replica's": f"{proof['same']:,} rows compared, the same bit by bit; {status.differing} were not",
    }
    print(f"{SCORED} batches of {batch:,} examples were scored, each before the trainer learned from it:")
    for name, said in lines.items():
        print(f"  {name:<25} {said}")


def _spread(taken_ms: list[float]) -> str:
    return f"{np.percentile(taken_ms, 50):.2f} ms (p50), {np.percentile(taken_ms, 95):.2f} ms (p95)"


def cut_off(node: InferenceNode, replica: Command, batch: Batch) -> None:
    """The replica ends, and scoring goes on."""
    replica.signal(signal.SIGKILL)
    replica.process.wait()
    inputs = node.inputs(batch.keys, unreached="defaults")
    quality = auc(batch.billed, scored(inputs, batch))
    print(f"The replica was killed. Of the next {inputs.sources.keys:,} keys {inputs.sources.hit_ratio:.1%} are in this process;")
    print(f"with defaults for the rest the AUC of their batch is {quality:.3f}.")
    try:
        node.inputs({"product": np.array([-1])})
    except Unreachable as error:
        print(f"Who wants no defaults is told: {str(error).partition(':')[0]}.")


def main() -> None:
    stream = story_stream(read_purchases())
    with ExitStack() as closing:
        folder = Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="penstock-scoring-")))
        text = config_text(
            model=MODEL, tables=TABLES, endpoint=None, store=(folder / "store").as_uri(), log=(folder / "log").as_uri()
        )
        text += f'[inference]\nhot_bytes = {HOT_BYTES}\nnear_bytes = {NEAR_BYTES}\n[client]\ntimeout = "2s"\n'
        stage = closing.enter_context(open_stage(folder, text))
        config = load_config(stage.config)
        env = closing.enter_context(create_environment(config, MODEL, who="scoring"))
        trainer, checkpoint = published(stage, stream, closing)
        write_frequencies(folder, stream, checkpoint)
        replica = replica_of(stage, env)
        print("A replica in a process of its own serves it; this process keeps what the trainer saw most.")
        client = closing.enter_context(Client.from_config(config, MODEL))
        node = closing.enter_context(InferenceNode(env, client, hot=read_frequencies(checkpoint), timeout_s=2.0))
        node.start()
        awaited("the hot rows", lambda: (node.status().wanted == 0 and node.status().trusts) or None, within_s=START_S)
        before = node.version
        measured = online(node, client, trainer, stream)
        trainer.publish_delta()
        awaited("the next version", lambda: node.version > before or None, within_s=START_S)
        told(node, measured, before)
        cut_off(node, replica, stream.batch(LEARNED + SCORED))


if __name__ == "__main__":
    main()
