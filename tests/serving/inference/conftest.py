"""Inference nodes of a world, which end with the test."""

import msgspec
import pytest
from nodes import SLOW, Replicas
from served import published, step, world_of

from penstock.pipeline.config import InferenceConfig
from penstock.serving.inference.node import InferenceNode
from penstock.serving.replica import Replica


@pytest.fixture
def world():
    return world_of()


@pytest.fixture
def begin(world):
    """A node, its cluster and the replica behind it, of a world whose writer published `keys`."""
    opened = []

    def start(*, ref="live", options=None, **settings):
        world.config = msgspec.structs.replace(world.config, inference=InferenceConfig(**SLOW | (options or {})))
        replica = Replica(world.environment(), name="r", ref=ref)
        step(replica)
        cluster = Replicas(replica)
        node = InferenceNode(world.environment(), cluster, ref=ref, **settings)
        opened.append(node)
        return node, cluster, replica

    yield start
    for node in opened:
        node.close()


@pytest.fixture
def writer(world):
    return published(world, *range(40))
