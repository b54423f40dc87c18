"""A process that lives for long, and a table that was born since it read the schema."""

from trainer_world import World, rows_of

from penstock.pipeline.catalog.catalog import Catalog
from penstock.publishers.compaction import compact
from penstock.publishers.folding import publish_delta_from_log
from penstock.publishers.verification import verify


def test_a_compaction_holds_tables_that_were_born_since():
    world = World()
    try:
        world.born("item")
        long_lived = world.environment()
        assert set(long_lived.schema.tables) == {"item"}
        world.born("user")
        trainer = world.open()
        for table in ("item", "user"):
            trainer.put(table, [1, 2], rows_of([1, 2]), trained_through=world.now)
        trainer.mark()
        version = publish_delta_from_log(world.environment())
        assert set(compact(long_lived).full) == {"item", "user"}
        found = verify(world.environment(), version.version)
        assert found.ok, found.findings
        assert Catalog(world.store, "retail").history().bases
    finally:
        world.close()
