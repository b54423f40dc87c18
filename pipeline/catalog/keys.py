"""Where each object of a model stands in the store. docs/format.md lists the same."""

from __future__ import annotations

from ..core.ids import Marker, Offset, Partition, Timeline, Version


def schema(model: str) -> str:
    return f"{model}/catalog.json"


def refs(model: str) -> str:
    return f"{model}/refs.json"


def history(model: str, generation: int) -> str:
    return f"{model}/history/{generation:010d}.json"


def manifest(model: str, version: Version) -> str:
    return f"{model}/versions/{version:010d}.json"


def versions(model: str) -> str:
    return f"{model}/versions/"


def checkpoint(model: str, marker: Marker) -> str:
    return f"{model}/checkpoints/{marker:010d}.json"


def checkpoints(model: str) -> str:
    return f"{model}/checkpoints/"


def claim(model: str, timeline: Timeline) -> str:
    return f"{model}/timelines/{timeline:010d}.json"


def publisher(model: str, publisher: str) -> str:
    return f"{model}/publishers/{publisher}.json"


def publishers(model: str) -> str:
    return f"{model}/publishers/"


def upload(model: str, upload: str) -> str:
    return f"{model}/uploads/{upload}.json"


def uploads(model: str) -> str:
    return f"{model}/uploads/"


def data(model: str, upload: str) -> str:
    """The folder of an upload's data."""
    return f"{model}/data/{upload}"


def pin(model: str, name: str) -> str:
    return f"{model}/pins/{name}.json"


def pins(model: str) -> str:
    return f"{model}/pins/"


def presence(model: str, replica: str) -> str:
    return f"{model}/presence/{replica}.json"


def presences(model: str) -> str:
    return f"{model}/presence/"


def care(model: str, work: str) -> str:
    return f"{model}/care/{work}.json"


def cares(model: str) -> str:
    return f"{model}/care/"


def skip(model: str, partition: Partition, offset: Offset) -> str:
    return f"{model}/skips/{partition:05d}-{offset:019d}.json"


def skips(model: str) -> str:
    return f"{model}/skips/"


def skipped(key: str) -> tuple[Partition, Offset]:
    """The place that a skip's key names."""
    partition, offset = key.rsplit("/", 1)[1].removesuffix(".json").split("-")
    return Partition(int(partition)), Offset(int(offset))


def number_of(key: str) -> int:
    """The number that a numbered object's key ends in."""
    return int(key.rsplit("/", 1)[1].removesuffix(".json"))
