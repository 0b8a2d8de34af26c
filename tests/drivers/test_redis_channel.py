"""A connection that listens: what arrives, when it can be waited for, and how it comes back when it is lost."""

from __future__ import annotations

import gc
import logging
import os
import select
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from celery.exceptions import BrokerError
from celery.redis.channel import Channel
from celery.redis.link import Link
from celery.redis.wire import pack
from rig.proxy import Proxy
from rig.redis import RedisServer

MakeServer = Callable[..., RedisServer]
MakeLink = Callable[..., Link]
Listen = Callable[[Link], Channel]
GRACE = 30.0
PATIENT = 90.0
"""The timeout of a link that is to be told something at once, which `GRACE` is in comparison."""
INVALIDATED = b"__redis__:invalidate"


def readable(channel: Channel, timeout: float = 0.0) -> bool:
    poll = select.poll()
    poll.register(channel.fileno(), select.POLLIN)
    return bool(poll.poll(timeout * 1000))


def wait_until(ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + GRACE
    while not ready():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.005)


def wait_for_generation(channel: Channel, generation: int) -> None:
    """As an event loop does: by the descriptor alone."""
    deadline = time.monotonic() + GRACE
    while channel.generation < generation:
        assert time.monotonic() < deadline, "it did not come back"
        if readable(channel, 1):
            channel.get(0)


@pytest.fixture
def link(redis_url: str, make_link: MakeLink) -> Link:
    return make_link(redis_url)


@pytest.fixture
def channel(link: Link, listen: Listen) -> Channel:
    return listen(link)


# -- what arrives ------------------------------------------------------------------------------------------------------


def test_messages_on_channels_and_patterns(link: Link, channel: Channel) -> None:
    # GIVEN a channel that listens
    channel.subscribe("plain", b"\xff\x00")
    channel.psubscribe("a*")
    assert channel.generation == 1

    # WHEN messages are sent, and others elsewhere
    link.call("PUBLISH", "plain", b"\x00\xff\r\n")
    link.call("PUBLISH", "other", "no")
    link.call("PUBLISH", b"\xff\x00", "")
    link.call("PUBLISH", "abc", "yes")

    # THEN the right ones arrive, in their order
    assert channel.get(GRACE) == ("message", b"plain", b"\x00\xff\r\n")
    assert channel.get(GRACE) == ("message", b"\xff\x00", b"")
    assert channel.get(GRACE) == ("pmessage", b"abc", b"yes")
    assert channel.get(0) is None


def test_nothing_arrives_after_unsubscribing(link: Link, channel: Channel) -> None:
    channel.subscribe("one", "two")
    channel.psubscribe("t*")
    channel.unsubscribe("one", "never")
    channel.punsubscribe("t*")
    wait_until(lambda: link.call("PUBLISH", "one", "no") == 0)
    wait_until(lambda: link.call("PUBLISH", "two", "last") == 1)
    while (found := channel.get(GRACE)) != ("message", b"two", b"last"):
        assert found is not None
    channel.unsubscribe("two")
    wait_until(lambda: link.call("PUBLISH", "two", "no") == 0)
    channel.subscribe("one")
    assert link.call("PUBLISH", "one", "again") == 1
    wait_until(lambda: channel.get(GRACE) == ("message", b"one", b"again"))


def test_subscribing_twice_is_subscribing_once(link: Link, channel: Channel) -> None:
    channel.subscribe("one", "one")
    channel.subscribe("one")
    assert link.call("PUBLISH", "one", "x") == 1
    assert channel.get(GRACE) == ("message", b"one", b"x")
    assert channel.get(0) is None


def test_keys_that_change_are_told_of(link: Link, channel: Channel) -> None:
    # GIVEN a connection whose reads are tracked on behalf of the channel
    channel.subscribe(INVALIDATED)
    with link.lane() as lane:
        link.exchange(lane, pack(("CLIENT", "TRACKING", "ON", "REDIRECT", channel.client_id(), "NOLOOP")))
        link.exchange(lane, pack(("LLEN", "queue")))

        # WHEN another connection changes what was read
        link.call("LPUSH", "queue", "message")

        # THEN it is told which, and of a flush
        assert channel.get(GRACE) == ("message", INVALIDATED, [b"queue"])
        link.exchange(lane, pack(("LLEN", "queue")))
        link.call("FLUSHDB")
        assert channel.get(GRACE) == ("message", INVALIDATED, None)


def test_a_large_message_arrives_whole(link: Link, channel: Channel) -> None:
    channel.subscribe("large")
    payload = os.urandom(20_000_000)
    link.call("PUBLISH", "large", payload)
    assert channel.get(GRACE) == ("message", b"large", payload)


def test_what_is_sent_once_subscribe_has_returned_arrives(link: Link, channel: Channel) -> None:
    for number in range(200):
        channel.subscribe(f"channel-{number}")
        link.call("PUBLISH", f"channel-{number}", number)
    assert [channel.get(GRACE) for _ in range(200)] == [
        ("message", b"channel-%d" % number, b"%d" % number) for number in range(200)
    ]


# -- waiting -----------------------------------------------------------------------------------------------------------


def test_get_waits_for_a_message(link: Link, channel: Channel) -> None:
    channel.subscribe("one")
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(channel.get, GRACE)
        link.call("PUBLISH", "one", "x")
        assert found.result(GRACE) == ("message", b"one", b"x")


def test_get_waits_no_longer_than_it_is_told(channel: Channel) -> None:
    channel.subscribe("one")
    began = time.monotonic()
    assert channel.get(0.2) is None
    assert 0.15 <= time.monotonic() - began < GRACE
    assert channel.get(0) is None


def test_the_descriptor_is_readable_as_long_as_there_are_messages(link: Link, channel: Channel) -> None:
    # GIVEN several messages, which one read from the socket has taken in
    channel.subscribe("one")
    while channel.get(0) is not None or readable(channel):
        pass
    for number in range(3):
        link.call("PUBLISH", "one", number)

    # THEN an event loop that takes one at a time gets all of them
    for number in range(3):
        assert readable(channel, GRACE)
        assert channel.get(0) == ("message", b"one", b"%d" % number)
    channel.get(0)
    assert not readable(channel)


@pytest.mark.parametrize("subscribed", [True, False])
def test_close_ends_a_get_that_waits(subscribed: bool, link: Link, listen: Listen) -> None:
    channel = listen(link)
    if subscribed:
        channel.subscribe("one")
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(channel.get)
        channel.close()
        assert found.result(GRACE) is None
    assert readable(channel)
    assert channel.get() is None
    channel.close()
    if subscribed:
        wait_until(lambda: link.call("PUBLISH", "one", "x") == 0)


def test_a_channel_that_nobody_has_any_more_is_closed(link: Link) -> None:
    channel = Channel(link)
    channel.subscribe("one")
    assert link.call("PUBLISH", "one", "x") == 1
    del channel
    gc.collect()
    wait_until(lambda: link.call("PUBLISH", "one", "x") == 0)


def test_threads_subscribe_while_another_one_reads(link: Link, channel: Channel) -> None:
    # GIVEN a thread that reads
    channel.subscribe("end")
    heard = []

    def read() -> None:
        while (found := channel.get(GRACE)) is not None and found[1] != b"end":
            heard.append(found[1])

    with ThreadPoolExecutor(9) as pool:
        reading = pool.submit(read)

        # WHEN others subscribe, send and unsubscribe
        def work(thread: int) -> None:
            for number in range(50):
                name = f"{thread}.{number}"
                channel.subscribe(name)
                assert link.call("PUBLISH", name, "x") == 1
                channel.unsubscribe(name)

        for done in [pool.submit(work, thread) for thread in range(8)]:
            done.result(GRACE)
        link.call("PUBLISH", "end", "")
        reading.result(GRACE)

    # THEN nothing was missed
    assert sorted(heard) == sorted(b"%d.%d" % (thread, number) for thread in range(8) for number in range(50))


# -- when it is lost ---------------------------------------------------------------------------------------------------


def test_a_killed_connection_comes_back_with_all_its_channels(
    redis_url: str, make_link: MakeLink, listen: Listen, caplog: pytest.LogCaptureFixture
) -> None:
    # GIVEN a channel that listens
    caplog.set_level(logging.INFO, "celery")
    link = make_link(redis_url)
    channel = listen(link)
    channel.subscribe("one", "two")
    channel.psubscribe("a*")
    number = channel.client_id()

    # WHEN its connection is killed
    link.call("CLIENT", "KILL", "ID", number)
    wait_for_generation(channel, 2)

    # THEN it listens to the same on another one
    assert channel.client_id() not in {0, number}
    assert [link.call("PUBLISH", name, "x") for name in ("one", "two", "abc")] == [1, 1, 1]
    assert [channel.get(GRACE)[0] for _ in range(3)] == ["message", "message", "pmessage"]  # type: ignore[index]

    # AND that was said once
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "is lost (the server closed the connection): connecting again." in caplog.messages[0]


def test_a_restarted_server_is_listened_to_again(
    make_server: MakeServer, make_link: MakeLink, listen: Listen, caplog: pytest.LogCaptureFixture
) -> None:
    # GIVEN a server that is stopped, while a thread reads and names are added
    server = make_server()
    link = make_link(server.url(), timeout=PATIENT)
    channel = listen(link)
    channel.subscribe("before", "dropped")
    with ThreadPoolExecutor(2) as pool:
        reading = pool.submit(channel.get)
        server.stop()
        wait_until(lambda: bool(caplog.messages))
        channel.unsubscribe("dropped")
        subscribing = pool.submit(channel.subscribe, "meanwhile")

        # WHEN it is there again
        server.start()
        subscribing.result(GRACE)

        # THEN it is listened to soon
        assert link.call("PUBLISH", "before", "x") == 1
        assert reading.result(GRACE) == ("message", b"before", b"x")
    assert link.call("PUBLISH", "meanwhile", "y") == 1
    assert channel.get(GRACE) == ("message", b"meanwhile", b"y")
    assert link.call("PUBLISH", "dropped", "z") == 0
    assert channel.generation == 2
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 1


def test_the_number_of_a_connection_that_the_server_has_closed_is_not_given(
    make_server: MakeServer, make_link: MakeLink, listen: Listen
) -> None:
    # GIVEN a channel that nobody reads, at a server that has been restarted
    server = make_server()
    link = make_link(server.url())
    channel = listen(link)
    channel.subscribe("one")
    server.restart(kill=True)

    # THEN the number it gives is that of a connection there
    number = channel.client_id()
    assert channel.generation == 2
    assert f"id={number} " in link.call("CLIENT", "LIST").decode()


def test_a_silent_connection_that_leads_nowhere_is_noticed(
    redis_server: RedisServer, redis_url: str, make_link: MakeLink, listen: Listen
) -> None:
    # GIVEN a channel whose connection has become a black hole
    with Proxy(redis_server.port) as proxy:
        link = make_link(proxy.url(), timeout=PATIENT, health_check_interval=0.2)
        channel = listen(link)
        channel.subscribe("one")
        link.timeout = 1
        proxy.swallow()
        healed = threading.Timer(0.5, proxy.heal)
        healed.start()

        # THEN it is noticed though nobody reads, and another one made
        wait_for_generation(channel, 2)
        link.timeout = PATIENT
        assert make_link(redis_url).call("PUBLISH", "one", "x") == 1
        assert channel.get(GRACE) == ("message", b"one", b"x")
        healed.join()
        channel.close()
        link.close()


def test_a_silent_server_that_is_there_is_left_alone(redis_url: str, make_link: MakeLink, listen: Listen) -> None:
    # GIVEN a channel that asks a silent server often, and has messages that nobody reads
    link = make_link(redis_url, health_check_interval=0.05)
    channel = listen(link)
    channel.subscribe("one")
    link.call("PUBLISH", "one", "x")
    number = channel.client_id()

    def commands() -> int:
        info = link.call("INFO", "commandstats").decode()
        return int(info.partition("cmdstat_ping:calls=")[2].partition(",")[0] or 0)

    # WHEN it has asked several times
    before = commands()
    wait_until(lambda: commands() >= before + 5)

    # THEN the connection is the same, and the message there
    assert readable(channel)
    assert (channel.generation, channel.client_id()) == (1, number)
    assert channel.get(0) == ("message", b"one", b"x")


def test_a_server_that_cannot_be_reached_is_an_error_of_subscribe_within_its_time(
    make_server: MakeServer, make_link: MakeLink, listen: Listen
) -> None:
    server = make_server()
    server.stop()
    link = make_link(server.url(), timeout=0.5)
    channel = listen(link)
    began = time.monotonic()
    with pytest.raises(BrokerError, match="cannot be reached: Connection refused") as caught:
        channel.subscribe("one")
    assert caught.value.temporary is True  # type: ignore[attr-defined]
    assert time.monotonic() - began < GRACE

    # AND nothing is left of it
    server.start()
    link.timeout = PATIENT
    channel.subscribe("two")
    assert server.ask("PUBSUB", "CHANNELS") == [b"two"]


def test_a_server_that_stands_still_is_an_error_of_subscribe_within_its_time(
    make_server: MakeServer, make_link: MakeLink, listen: Listen
) -> None:
    server = make_server()
    link = make_link(server.url(), timeout=PATIENT)
    channel = listen(link)
    channel.subscribe("one")
    server.pause()
    link.timeout = 0.5
    began = time.monotonic()
    with pytest.raises(BrokerError, match="cannot be reached"):
        channel.subscribe("two")
    assert time.monotonic() - began < GRACE
    link.timeout = PATIENT
    server.resume()
    channel.subscribe("three")
    wait_until(lambda: sorted(server.ask("PUBSUB", "CHANNELS")) == [b"one", b"three"])


@pytest.mark.parametrize("first", [True, False])
def test_a_channel_that_this_user_may_not_hear(
    first: bool, make_server: MakeServer, make_link: MakeLink, listen: Listen
) -> None:
    # GIVEN a user who may hear some channels
    server = make_server(user=["ann on >pw ~* resetchannels &mine* +@all"])
    channel = listen(make_link(server.url().replace("//", "//ann:pw@"), timeout=PATIENT))
    if not first:
        channel.subscribe("mine.1")

    # THEN another one is refused at once, and said so
    began = time.monotonic()
    with pytest.raises(BrokerError, match=r"NOPERM .*give the user of the URL all commands, keys and channels"):
        channel.subscribe("others")
    assert time.monotonic() - began < GRACE

    # AND the others go on
    channel.subscribe("mine.2")
    assert server.ask("PUBLISH", "mine.2", "x") == 1
    assert channel.get(GRACE) == ("message", b"mine.2", b"x")


def test_a_refusal_while_coming_back_is_said_and_tried_again(
    make_server: MakeServer, make_link: MakeLink, listen: Listen, caplog: pytest.LogCaptureFixture
) -> None:
    # GIVEN a channel of a user whose password is changed behind its back
    server = make_server(user=["ann on >pw ~* &* +@all"])
    link = make_link(server.url().replace("//", "//ann:pw@"), health_check_interval=0.1)
    channel = listen(link)
    channel.subscribe("one")
    server.ask("ACL", "SETUSER", "ann", "resetpass", ">other")
    server.ask("CLIENT", "KILL", "USER", "ann")
    wait_until(lambda: any("check user and password in the URL" in message for message in caplog.messages))

    # WHEN it is changed back
    server.ask("ACL", "SETUSER", "ann", ">pw")

    # THEN it listens again
    wait_for_generation(channel, 2)
    assert server.ask("PUBLISH", "one", "x") == 1
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 1
    assert not any("pw" in message for message in caplog.messages)


def test_a_child_listens_on_a_connection_of_its_own(link: Link, channel: Channel) -> None:
    # GIVEN a channel that listens
    channel.subscribe("one")
    parents = channel.client_id()
    reading, writing = os.pipe()

    # WHEN the process forks, and the child reads
    child = os.fork()
    if child == 0:  # pragma: no cover - another process
        try:
            wait_until(lambda: channel.get(0.05) is None and channel.generation == 2)
            os.write(writing, b"ready" if channel.client_id() != parents else b"same")
            found = channel.get(GRACE)
            os.write(writing, b"heard" if found == ("message", b"one", b"x") else b"nothing")
            channel.close()
        finally:
            os._exit(0)
    assert select.select([reading], [], [], GRACE)[0]
    assert os.read(reading, 5) == b"ready"

    # THEN both hear
    assert link.call("PUBLISH", "one", "x") == 2
    assert channel.get(GRACE) == ("message", b"one", b"x")
    assert select.select([reading], [], [], GRACE)[0]
    assert os.read(reading, 10) == b"heard"
    os.waitpid(child, 0)
    assert (channel.client_id(), channel.generation) == (parents, 1)
    os.close(reading)
    os.close(writing)
