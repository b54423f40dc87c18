"""A rollback of some tables: the others go on."""

from recoveries import begun, check_recovery, roll_back
from worlds import TABLES, at, undone

from penstock.rollback.target import before_event, to_version


def test_the_other_tables_stay_as_they_are():
    world, trainer = begun()
    trainer.put("item", 8, 0, 20)
    trainer.put("user", 9, 0, 20, deleted=[1])
    world.commit(world.mark(trainer))
    trainer.put("item", 10, 1)
    trainer.put("user", 11, 2)
    before = world.delivered(world.catalog.history().newest, world.ends())
    manifest = roll_back(world, before_event(at(8)), tables=("item",))
    check_recovery(world, manifest)
    assert world.rows(manifest)["user"] == before["user"]
    assert {row[0] for row in world.rows(manifest)["item"].values()} == {5}
    assert manifest.rollback.tables == ("item",)
    assert manifest.rollback.lost_rows == 3
    assert manifest.trained_through == at(11)


def test_rows_of_other_tables_that_never_went_over_the_log_stay():
    """They are in a delta past the base only: those who adopted it have them, those who pass over it must be given them."""
    world, trainer = begun()
    trainer.put("item", 8, 0)
    trainer.keep("user", 8, 3, 30)
    world.commit(world.mark(trainer))
    trainer.put("user", 9, 30)
    manifest = roll_back(world, before_event(at(8)), tables=("item",))
    check_recovery(world, manifest)
    assert manifest.base == 1
    assert [world.rows(manifest)["user"][key][0] for key in (3, 30)] == [8, 9]
    passed_over = world.delivered(world.catalog.manifest(1), manifest.rollback.fence)
    assert passed_over["user"][3][0] == 5
    assert undone(world, passed_over, manifest) == world.rows(manifest)


def test_the_dense_slice_goes_on():
    world, trainer = begun()
    for announce in trainer.put_dense(6, "six"):
        announce()
    trainer.put("item", 8, 0)
    for announce in trainer.put_dense(9, "nine"):
        announce()
    assert roll_back(world, before_event(at(8)), tables=("item",)).dense.digest == "nine"


def test_back_to_a_version():
    world, trainer = begun()
    for event in (8, 9):
        for table in TABLES:
            trainer.put(table, event, 0, event)
        world.commit(world.mark(trainer))
    manifest = roll_back(world, to_version(2), tables=("user",))
    check_recovery(world, manifest)
    assert [world.rows(manifest)[table][0][0] for table in TABLES] == [9, 8]


def test_both_tables_by_name_are_all_rows_and_no_dense_slice():
    world, trainer = begun()
    for table in TABLES:
        trainer.put(table, 8, 0)
    manifest = roll_back(world, before_event(at(8)), tables=TABLES)
    check_recovery(world, manifest, poison=8)


def test_one_table_after_the_other():
    world, trainer = begun()
    for event in (8, 9):
        for table in TABLES:
            trainer.put(table, event, event - 8, 20 + event)
    for table, event in zip(TABLES, (8, 9), strict=True):
        manifest = roll_back(world, before_event(at(event)), tables=(table,))
        second = world.writer()
        second.put(table, 30, 5)
        check_recovery(world, manifest)
    found = world.delivered(manifest, world.ends())
    assert [found[table][key][0] for table in TABLES for key in (0, 1, 5)] == [5, 5, 30, 8, 5, 30]
