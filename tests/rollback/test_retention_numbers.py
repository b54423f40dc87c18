"""A version's number is never given to another one, also when retention has removed it."""

from aged import check_whole, clean, grown, keys_of


def numbers_of(world):
    return [int(key.rsplit("/", 1)[1].removesuffix(".json")) for key in keys_of(world, "versions")]


def test_the_number_of_a_base_that_went_is_not_used_again():
    world, trainer = grown(base_at=(3,))  # newcomers begin there
    history = world.catalog.history()
    first, newest = history.trunk[1], history.newest
    old = world.base(first)
    assert old.version > newest.version
    clean(world)
    assert old.version not in world.catalog.refs().bases
    again = world.base(newest)
    assert again.version > old.version
    check_whole(world)
    trainer.put("item", 7 * 60, 5)
    world.commit(world.mark(trainer))
    clean(world)
    clean(world)
    assert old.version not in numbers_of(world)
