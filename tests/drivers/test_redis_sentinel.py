"""More servers than one: sentinels that know the primary, and URLs that are tried in turn."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from celery.exceptions import BrokerError
from celery.redis.channel import Channel
from celery.redis.link import Link
from rig.certificates import Certificates
from rig.redis import RedisSentinel, RedisServer, free_port, replica

MakeServer = Callable[..., RedisServer]
MakeLink = Callable[..., Link]
GRACE = 30.0
PATIENT = 90.0
"""The timeout of a link that is to be told something at once, which `GRACE` is in comparison."""


class House:
    """A primary, its replica, and three sentinels."""

    def __init__(self, make: MakeServer) -> None:
        self.primary = make(user=["ann on >pw ~* &* +@all"], min_replicas_to_write="0")
        self.replica = make(replica, self.primary, user=["ann on >pw ~* &* +@all"])
        self.sentinels = [make(RedisSentinel, self.primary, name="jobs", quorum=2) for _ in range(3)]
        deadline = time.monotonic() + GRACE
        while not all(self._sees_all(sentinel) for sentinel in self.sentinels):
            assert time.monotonic() < deadline
            time.sleep(0.02)

    @staticmethod
    def _sees_all(sentinel: RedisServer) -> bool:
        flat = sentinel.ask("SENTINEL", "MASTER", "jobs")
        facts = dict(zip(flat[::2], flat[1::2], strict=True))
        return facts[b"num-other-sentinels"] == b"2" and facts[b"num-slaves"] == b"1"

    def url(self, who: str = "", db: int = 0) -> str:
        return ";".join(f"sentinel://{who}127.0.0.1:{sentinel.port}/{db}" for sentinel in self.sentinels)


@pytest.fixture
def house(make_server: MakeServer) -> House:
    return House(make_server)


def test_a_fail_over_is_followed(house: House, make_link: MakeLink, listen: Callable[[Link], Channel]) -> None:
    # GIVEN a link and a channel to the primary that the sentinels name
    link = make_link(house.url("ann:pw@", 3), master_name="jobs", min_other_sentinels=2, timeout=60)
    channel = listen(link)
    channel.subscribe("one")
    assert link.call("ACL", "WHOAMI") == b"ann"
    assert link.server.place == f"127.0.0.1:{house.primary.port}"
    assert link.call("SET", "before", 1) == b"OK"
    assert link.call("WAIT", 1, 30_000) == 1

    # WHEN the primary dies, and a sentinel with it
    house.primary.kill()
    house.sentinels[0].kill()

    # THEN requests go on at its replica once that is promoted, and so do messages
    assert link.call("SET", "after", 2) == b"OK"
    assert link.server.place == f"127.0.0.1:{house.replica.port}"
    assert link.calls([("GET", "before"), ("GET", "after")]) == [b"1", b"2"]
    deadline = time.monotonic() + GRACE
    while channel.generation < 2:
        assert time.monotonic() < deadline
        channel.get(0.05)
    assert link.call("PUBLISH", "one", "x") == 1
    assert channel.get(GRACE) == ("message", b"one", b"x")

    # AND the old primary, which comes back as a replica in the end, is not taken for one before
    house.primary.start()
    link.close()
    assert link.call("SET", "again", 3) == b"OK"
    assert link.server.place == f"127.0.0.1:{house.replica.port}"


@pytest.fixture
def sentinel(make_server: MakeServer) -> tuple[RedisServer, RedisSentinel]:
    """A primary and one sentinel, which has a password."""
    primary = make_server()
    watcher: Any = make_server(RedisSentinel, primary, name="jobs", requirepass="s3cret")
    return primary, watcher


def test_what_a_sentinel_has_to_be_asked(
    sentinel: tuple[RedisServer, RedisSentinel], redis_url: str, make_link: MakeLink
) -> None:
    primary, watcher = sentinel
    url = f"sentinel://127.0.0.1:{watcher.port}"
    known: dict[str, Any] = {"master_name": "jobs", "sentinel_kwargs": {"password": "s3cret"}}

    # GIVEN the right words, it leads to the primary, also if others are down or are none
    down = f"sentinel://127.0.0.1:{free_port()}"
    for urls in (url, f"{down};{url}", [down, url, down]):
        assert make_link(urls, **known).server.place == f"127.0.0.1:{primary.port}"

    # THEN wrong ones are refused at once
    began = time.monotonic()
    with pytest.raises(BrokerError, match=r"no sentinel knows a primary called 'job'; check the option master_name"):
        make_link(url, **{**known, "master_name": "job"}, timeout=PATIENT).call("PING")
    for kwargs in ({}, {"password": "wr0ng"}):
        with pytest.raises(BrokerError, match=r"a sentinel does not let us in .*; give sentinel_kwargs") as caught:
            make_link(url, master_name="jobs", sentinel_kwargs=kwargs, timeout=PATIENT).call("PING")
        assert "s3cret" not in str(caught.value)
        assert caught.value.temporary is False  # type: ignore[attr-defined]
    with pytest.raises(BrokerError, match=r"it is a sentinel; write sentinel:// instead of redis://"):
        make_link(f"redis://:s3cret@127.0.0.1:{watcher.port}", timeout=PATIENT).call("PING")
    assert time.monotonic() - began < GRACE

    # AND what may change is tried until the deadline
    with pytest.raises(BrokerError, match="this sentinel sees fewer than 3 others") as caught:
        make_link(url, **known, min_other_sentinels=3, timeout=0.6).call("PING")
    assert caught.value.temporary is True  # type: ignore[attr-defined]
    with pytest.raises(BrokerError, match=r"no sentinel tells where the primary is: 127\.0\.0\.1:.*refused"):
        make_link(down, **known, timeout=0.3).call("PING")
    with pytest.raises(BrokerError, match=r"no sentinel tells where the primary is: 127\.0\.0\.1:.*unknown command"):
        make_link(redis_url.replace("redis:", "sentinel:"), master_name="jobs", timeout=0.6).call("PING")


def test_a_sentinel_that_stands_still_costs_a_part_of_the_time(
    sentinel: tuple[RedisServer, RedisSentinel], make_server: MakeServer, make_link: MakeLink
) -> None:
    primary, watcher = sentinel
    other: Any = make_server(RedisSentinel, primary, name="jobs", requirepass="s3cret")
    watcher.pause()
    urls = [f"sentinel://127.0.0.1:{port}" for port in (watcher.port, other.port)]
    link = make_link(urls, master_name="jobs", sentinel_kwargs={"password": "s3cret"}, timeout=6)
    assert link.call("PING") == b"PONG", "there was time left for the other one"

    # AND the one that answered is asked first from now on
    link.close()
    link.timeout = 3 * PATIENT
    began = time.monotonic()
    assert link.call("PING") == b"PONG"
    assert time.monotonic() - began < GRACE


# -- several URLs ------------------------------------------------------------------------------------------------------


def test_the_next_server_is_taken_when_one_is_down(make_server: MakeServer, make_link: MakeLink) -> None:
    # GIVEN two servers
    one, two = make_server(), make_server()
    link = make_link([one.url(), two.url()])
    assert link.server.place == f"127.0.0.1:{one.port}"

    # WHEN the first one ends
    one.stop()

    # THEN the second one is used, and stays so when the first one is back
    assert link.call("SET", "a", 1) == b"OK"
    assert link.server.place == f"127.0.0.1:{two.port}"
    one.start()
    link.close()
    assert link.call("GET", "a") == b"1"

    # UNLESS that ends
    two.stop()
    assert link.call("GET", "a") is None
    assert link.server.place == f"127.0.0.1:{one.port}"


def test_a_replica_among_several_urls_is_passed_over(make_server: MakeServer, make_link: MakeLink) -> None:
    primary = make_server()
    follower = make_server(replica, primary)
    link = make_link(f"{follower.url()};{primary.url()}")
    assert link.call("SET", "a", 1) == b"OK"
    assert link.server.place == f"127.0.0.1:{primary.port}"


def test_a_server_that_stands_still_among_several_costs_a_part_of_the_time(
    make_server: MakeServer, make_link: MakeLink
) -> None:
    one, two = make_server(), make_server()
    one.pause()
    link = make_link([one.url(), two.url()], timeout=6)
    assert link.call("PING") == b"PONG", "there was time left for the other one"


def test_all_that_are_down_are_named(make_link: MakeLink) -> None:
    ports = free_port(), free_port()
    with pytest.raises(BrokerError) as caught:
        make_link([f"redis://:s3cret@127.0.0.1:{port}" for port in ports], timeout=0.5).call("PING")
    for port in ports:
        assert f"127.0.0.1:{port}: [Errno 111] Connection refused" in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_strategies(make_server: MakeServer, make_link: MakeLink) -> None:
    one, two = make_server(), make_server()
    urls = [one.url(), two.url()]
    link = make_link(urls, failover_strategy=lambda places: iter(reversed(places)))
    assert link.server.place == f"127.0.0.1:{two.port}"
    one.stop()
    assert make_link(urls, failover_strategy="shuffle").server.place == f"127.0.0.1:{two.port}"
    assert make_link(urls, failover_strategy="round-robin").server.place == f"127.0.0.1:{two.port}"


def test_a_place_that_is_written_to_is_never_taken_for_another(make_server: MakeServer, make_link: MakeLink) -> None:
    server = make_server()
    one, two = make_link(server.url(0)), make_link(server.url(1))
    assert one.address.place == two.address.place
    several = [make_link([server.url(), server.url()]) for _ in range(2)]
    assert several[0].address.place != several[1].address.place
    assert Path(one.address.place).name == f"127.0.0.1:{server.port}"


def test_sentinels_and_their_primary_over_tls(
    make_server: MakeServer, certificates: Certificates, make_link: MakeLink
) -> None:
    # GIVEN a primary and a sentinel that speak TLS only
    primary = make_server(tls=certificates)
    watcher = make_server(RedisSentinel, primary, name="jobs", tls=certificates)
    deadline = time.monotonic() + GRACE
    while b"master" not in watcher.ask("SENTINEL", "MASTER", "jobs")[9].split(b","):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    url = f"sentinel://127.0.0.1:{watcher.port}"
    ours = {"ssl_ca_certs": certificates.authority}

    # THEN both are found where both are told so
    link = make_link(url, master_name="jobs", ssl=ours, sentinel_kwargs={"ssl": True, **ours})
    assert link.call("PING") == b"PONG"
    with pytest.raises(BrokerError, match="no sentinel tells where the primary is"):
        make_link(url, master_name="jobs", ssl=ours, timeout=0.3).call("PING")
