"""Imports run one way; libraries stay behind their adapters (invariant 13)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LAYERS = [
    ("penstock.pipeline.core",),
    ("penstock.pipeline.config",),
    ("penstock.pipeline.ports",),
    ("penstock.pipeline.catalog",),
    ("penstock.pipeline.environment",),
    ("penstock.pipeline.metrics", "penstock.pipeline.plain_http"),
    ("penstock.pipeline.exposition",),
    ("penstock.slicer",),
    ("penstock.publishers", "penstock.rollback", "penstock.serving"),
    ("penstock.pipeline.runs",),
    ("penstock.examples",),
    ("penstock.pipeline.cli",),
]
"""Each may import what stands above it, and itself; those on one line do not know each other."""
EXCEPTIONS = {
    ("penstock.examples", "penstock.pipeline.cli"),  # the demo shows the commands as a person types them
    ("penstock.pipeline.cli", "penstock.examples"),
}
HOMES = {
    "boto3": ["pipeline/ports/s3_client.py"],
    "botocore": [
        "pipeline/ports/s3_client.py",
        "pipeline/ports/s3_bucket.py",
        "pipeline/ports/s3_store.py",
        "pipeline/ports/s3_upload.py",
    ],
    "kafka": ["pipeline/ports/kafka_"],
    "airflow": ["dags/"],
    "torch": [],
    "tensorflow": [],
}


def modules():
    for folder in ("pipeline", "slicer", "publishers", "rollback", "serving", "examples"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = "penstock." + ".".join(path.relative_to(ROOT).with_suffix("").parts)
            yield name.removesuffix(".__init__"), path


def imported(name, path):
    """Absolute names of the modules that a file imports."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                base = ".".join([*parts[: len(parts) - node.level + 1], *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def layer_of(name):
    found = [(n, prefix) for n, layer in enumerate(LAYERS) for prefix in layer if name == prefix or name.startswith(prefix + ".")]
    return max(found, key=lambda at: len(at[1]), default=None)


@pytest.mark.parametrize(("name", "path"), [pytest.param(n, p, id=n) for n, p in modules()])
def test_imports_point_upstream(name, path):
    mine = layer_of(name)
    for other in imported(name, path):
        theirs = layer_of(other)
        if mine is None or theirs is None or mine[1] == theirs[1] or (mine[1], theirs[1]) in EXCEPTIONS:
            continue
        assert theirs[0] < mine[0], f"{name} imports {other}"


@pytest.mark.parametrize("library", HOMES)
def test_invariant_13_a_library_stays_behind_its_adapter(library):
    for name, path in modules():
        users = [other for other in imported(name, path) if other.split(".")[0] == library]
        place = path.relative_to(ROOT).as_posix()
        assert not users or any(place.startswith(home) for home in HOMES[library]), f"{name} imports {users}"
