"""What became of the tables between two checkpoints."""

from penstock.slicer.proposals import ProposedTable, TableTensors
from penstock.slicer.schema_changes import changes_between


def tables(**sizes):
    return [
        ProposedTable(name=name, rows=rows, dim=dim, nbytes=0, parts=1, why="", config=TableTensors(tensor=name))
        for name, (rows, dim) in sizes.items()
    ]


BEFORE = tables(same=(5, 4), grown=(1000, 4), shrunk=(5, 4), wider=(9, 4), gone=(5, 4))
AFTER = tables(new=(12, 2), same=(5, 4), grown=(1200, 4), shrunk=(4, 4), wider=(5, 8))


def test_every_change_is_named_with_what_was_and_is():
    assert [str(change) for change in changes_between(BEFORE, AFTER, partial=False)] == [
        "new appears (12 x 2)", "grown grows (1,000 to 1,200)", "shrunk shrinks (5 to 4)", "wider changes dim (4 to 8)",
        "gone vanishes (5 x 4)",
    ]  # fmt: skip


def test_changes_alone_say_nothing_of_what_is_missing():
    assert [change.change for change in changes_between(BEFORE, AFTER, partial=True)] == ["appears", "changes dim"]
