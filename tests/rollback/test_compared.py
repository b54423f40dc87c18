"""A rollback past a version that was made by comparing: that one says nothing of rows that the log brought and its checkpoint
does not have, so replicas set them back unasked, and the undo has to name them."""

from types import SimpleNamespace

import msgspec
import pytest
from recoveries import begun, check_recovery, roll_back
from worlds import TABLES, at

from penstock.rollback.target import before_event


def compared(world, state):
    """The delta of a checkpoint as a comparison makes it: only what differs from the newest version, and digests of the state."""
    draft, model = world.drafted(state), world.states[state].model
    base, changes, digests = world.rows(world.catalog.history().newest), {}, {}
    for table in TABLES:
        rows = {key: tuple(map(float, row)) for key, row in model[table].items()}
        differing = {key: row for key, row in rows.items() if base[table].get(key) != row}
        gone = sorted(base[table].keys() - rows.keys())
        if differing or gone:
            changes[table] = world.change(SimpleNamespace(id=f"{draft.upload}-changes"), table, differing, gone)
        digests[table] = world.change(SimpleNamespace(id=f"{draft.upload}-whole"), table, rows, []).interval
    return world.committed(msgspec.structs.replace(draft, changes=changes, digests=digests, source="compared"))


@pytest.mark.parametrize("tables", [None, ("item",)])
def test_what_a_comparison_reset_silently_is_undone(tables):
    world, trainer = begun()
    before = world.catalog.history().newest.state
    for table in TABLES:
        trainer.put(table, 6, 3, 100)  # past the checkpoint: lost with this term
    again = world.writer(resume=before)
    again.put("item", 12, 7)
    version = compared(world, world.mark(again))
    assert 100 not in world.rows(version)["item"]
    manifest = roll_back(world, before_event(at(10)), tables=tables)
    assert 100 in world.rows(manifest)["item"]
    check_recovery(world, manifest, poison=10)
