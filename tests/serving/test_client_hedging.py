"""When a second replica is asked for the same, and where replicas are looked for."""

import gc
import time
import weakref

import pytest
from served import published, world_of
from waiting import reached

from penstock.pipeline.config import parse_config
from penstock.pipeline.core.errors import InvalidInput, NotFound, Unreachable
from penstock.serving import Replica
from penstock.serving.configured import configured
from penstock.serving.connecting import Access
from penstock.serving.hedging import NEEDED, Hedging, size_class
from penstock.serving.sources import Listed, Named, Present, addresses
from penstock.serving.timers import Timers


def test_what_is_late_is_learned_from_what_came():
    hedging = Hedging(0.05)
    for n in range(NEEDED - 1):
        hedging.answered("a", 0.01 * n)
    assert hedging.late_s("a") is None
    hedging.answered("a", 0.01 * NEEDED)
    assert hedging.late_s("a") == 0.01 * NEEDED
    assert hedging.late_s("b") is None
    for _ in range(1000):
        hedging.answered("a", 0.000001)
    assert hedging.late_s("a") == 0.001  # less is noise


def test_second_tries_are_a_share_of_the_first():
    hedging = Hedging(0.05)
    again = 0
    for _ in range(1000):
        hedging.asked()
        again += hedging.may_ask_again()
    assert again == pytest.approx(50, abs=1)
    for _ in range(1000):
        hedging.asked()
    saved = sum(hedging.may_ask_again() for _ in range(100))
    assert saved == 10  # not all of a quiet hour is spent in a loud minute
    assert not any(Hedging(0.0).may_ask_again() for _ in range(3))


def test_kinds_are_bounded():
    hedging = Hedging(0.05)
    for kind in range(10_000):
        hedging.answered(kind, 1.0)
    assert len(hedging._kinds) <= 256
    assert size_class(150_000) == size_class(140_000) != size_class(1000)


class Late:
    def __init__(self):
        self.told = []

    def is_late(self, part):
        self.told.append(part.name)


class Part:
    def __init__(self, name):
        self.name = name


def test_timers_tell_in_order_and_keep_nothing_alive():
    timers, late = Timers(), Late()
    parts = [Part(n) for n in range(3)]
    now = time.monotonic()
    gone = Part("gone")
    timers.at(now, late, gone)
    was = weakref.ref(gone)
    del gone
    gc.collect()
    assert was() is None
    for part, after in zip(parts, (0.06, 0.02, 0.04), strict=True):
        timers.at(now + after, late, part)
    reached(lambda: len(late.told) >= 3)
    assert [name for name in late.told if name != "gone"] == [1, 2, 0]
    timers.close()
    timers.at(now, late, parts[0])
    assert len(timers._due) == 0


# ---- sources -------------------------------------------------------------------------------------------------------------


def test_a_name_leads_to_every_address():
    named = Named("grpc+tls://replicas:8815", resolve=lambda host, port: ["10.0.0.1", "fd00::1"])
    assert list(named.urls()) == ["grpc+tls://10.0.0.1:8815", "grpc+tls://[fd00::1]:8815"]
    assert "127.0.0.1" in addresses("localhost", 1)
    for url in ("grpc://replicas", "replicas:8815", "grpc://replicas:x"):
        with pytest.raises(InvalidInput):
            Named(url)
    with pytest.raises(Unreachable, match="has no address"):
        addresses("name.that.does.not.exist.invalid", 1)


def test_presence_records_name_the_replicas_of_a_ref():
    world = world_of()
    published(world)
    env = world.environment()
    for name, address in (("one", "grpc://one:1"), ("two", "grpc://two:1"), ("quiet", "")):
        Replica(env, name=name, address=address).report()
    Replica(env, name="frozen", address="grpc://frozen:1", at=1).report()
    assert Present(env.catalog, "live", env.clock).urls() == ["grpc://one:1", "grpc://two:1"]
    assert Present(env.catalog, "@1", env.clock).urls() == ["grpc://frozen:1"]
    world.now += 3600 * 1_000_000
    assert Present(env.catalog, "live", env.clock).urls() == []


CONFIG = '[store]\nurl = "file:///nowhere"\n[log]\nurl = "file:///nowhere"\n[models.shop]\n[models.other]\n'


def test_a_config_says_where_replicas_are_and_how_to_ask():
    listed = configured(
        parse_config(CONFIG + '[client]\nurls = ["grpc://a:1", "grpc://a:1"]\ntimeout = "50ms"', "c"), "shop", "live"
    )
    assert (listed.source, listed.model, listed.options["timeout_s"]) == (Listed(("grpc://a:1",)), "shop", 0.05)
    assert listed.options["hedge_share"] == 0.05
    named = configured(parse_config(CONFIG + '[client]\ndns = "grpc://shop:1"\nhedge_percent = 0', "c"), "shop", "live")
    assert (named.source.url, named.options["hedge_share"]) == ("grpc://shop:1", 0.0)
    with pytest.raises(InvalidInput, match="which model"):
        configured(parse_config(CONFIG, "c"), None, "live")
    for wrong in ('urls = ["grpc://a:1"]\ndns = "grpc://shop:1"', 'tls_cert = "x"', "hedge_percent = 101", 'timeout = "soon"'):
        with pytest.raises(InvalidInput):
            parse_config(CONFIG + "[client]\n" + wrong, "c")


def test_a_token_is_read_again(tmp_path):
    file = tmp_path / "token"
    file.write_text("# made by hand\n\nfirst\nsecond\n")
    access = Access(token_file=file)
    assert access.headers() == [(b"authorization", b"Bearer first")]
    assert "first" not in repr(access)
    file.write_text("third\n")
    access.renew()
    assert access.headers() == [(b"authorization", b"Bearer third")]
    file.write_text("\n")
    with pytest.raises(InvalidInput, match="no token"):
        access.renew()
    with pytest.raises(NotFound, match="cannot read"):
        Access(token_file=tmp_path / "none")
    with pytest.raises(InvalidInput, match="together"):
        Access(certificate=file)
    with pytest.raises(InvalidInput, match="not both"):
        Access(token="x", token_file=file)
    assert Access().headers() == []
