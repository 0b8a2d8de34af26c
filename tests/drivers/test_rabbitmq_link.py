"""Connections to a real RabbitMQ node: what they survive, and what they say when they cannot."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest

from celery.amqp import frames
from celery.amqp.address import Address
from celery.amqp.channel import Channel, Refused
from celery.amqp.frames import Delivered, Properties
from celery.amqp.link import Link
from celery.amqp.publisher import Letter, Publisher
from celery.amqp.tables import decode_table, encode_table
from celery.exceptions import BrokerError, EncodeError, ImproperlyConfigured
from celery.utils.clock import FakeClock
from rig.certificates import Certificates
from rig.proxy import Proxy
from rig.rabbitmq import RabbitMQ
from rig.redis import free_port

MakeLink = Callable[..., Link]


@pytest.fixture
def make_link(rabbitmq_url: str) -> Iterator[MakeLink]:
    """`make_link(url, **options)`: a link that is closed with the test."""
    made: list[Link] = []

    def make(url: str = rabbitmq_url, **options: Any) -> Link:
        made.append(Link(url, {"timeout": 30.0, "connect_timeout": 30.0, **options}))
        return made[-1]

    yield make
    for link in made:
        link.close()


def declare(link: Link, name: str, **arguments: Any) -> None:
    def work(channel: Channel) -> None:
        data = frames.queue_declare(channel.number, name, 2, arguments)
        channel.call(data, frames.QUEUE_DECLARE_OK)

    link.control(work)


def count(link: Link, name: str) -> int:
    def work(channel: Channel) -> int:
        answer = channel.call(frames.queue_declare(channel.number, name, 1, {}), frames.QUEUE_DECLARE_OK)
        answer.short()
        return int(answer.number(4))

    return link.control(work)


def take(link: Link, name: str) -> Delivered:
    """One message, acknowledged."""

    def work(channel: Channel) -> Delivered:
        data = frames.method(channel.number, frames.BASIC_GET, b"\0\0", frames.short(name), b"\1")
        found = channel.call(data, frames.BASIC_GET_OK)
        assert isinstance(found, Delivered)
        return found

    return link.control(work)


def letter(body: bytes = b"x", key: str = "q", **properties: Any) -> Letter:
    return Letter("", key, frames.encode_properties(Properties(delivery_mode=2, **properties)), body)


def test_what_is_published_arrives_whole(make_link: MakeLink) -> None:
    link = make_link()
    declare(link, "q")
    headers = {
        "text": "schön", "none": None, "yes": True, "small": -5, "large": 2**40, "real": 1.5, "list": [1, ["a", None]],
        "map": {"inner": {"x": 1}}, "moment": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "sum": Decimal("12.34"),
        "raw": b"\xff\x00",
    }  # fmt: skip
    body = os.urandom(300_000)  # three frames
    sent = Properties("application/json", "utf-8", headers, 2, 7, "id", "reply", "60000", "m", 5, "t", None, "a")
    link.publish([Letter("", "q", frames.encode_properties(sent), body), letter(b"")])
    first, second = take(link, "q"), take(link, "q")
    assert (first.properties, first.body) == (sent, body)
    assert (second.body, second.routing_key, second.redelivered) == (b"", "q", False)


def test_a_large_batch_is_confirmed_before_it_returns(make_link: MakeLink) -> None:
    link = make_link()
    declare(link, "q")
    waiter = link.publish([letter(b"%d" % number) for number in range(5000)])
    assert (waiter.left, waiter.refused, waiter.returned) == (0, 0, {})
    assert count(link, "q") == 5000
    assert [take(link, "q").body for _ in range(3)] == [b"0", b"1", b"2"]


def test_threads_share_a_link(make_link: MakeLink) -> None:
    link = make_link()
    declare(link, "q")
    threads = [
        threading.Thread(target=lambda: [link.publish([letter(), letter()]) for _ in range(25)]) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
    assert count(link, "q") == 300


def test_those_who_publish_together_read_by_themselves(make_link: MakeLink) -> None:
    """One reads for all, and hands on when it leaves. The connection's own thread stands still here."""
    link = make_link(heartbeat=4)
    declare(link, "q")
    standing, go_on, together = threading.Event(), threading.Event(), threading.Barrier(6)

    def stand() -> None:
        standing.set()
        go_on.wait(60)

    confirmed: list[int] = []

    def publish() -> None:
        for number in range(100):
            together.wait(30)
            confirmed.append(link.publish([letter()] * (1 + number % 7)).left)

    link.publish([letter()])
    link.connection().on_tick = stand
    try:
        assert standing.wait(60)
        threads = [threading.Thread(target=publish) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert confirmed == [0] * 600
    finally:
        go_on.set()


def test_publishers_and_requests_take_turns_in_reading(make_link: MakeLink) -> None:
    """Whoever waits for a confirm reads for all; nobody is forgotten when it has its own."""
    link = make_link()
    declare(link, "q")

    def publish() -> None:
        for _ in range(200):
            assert not link.publish([Letter("", "q", b"\0\0", b"x")]).returned

    threads = [threading.Thread(target=publish) for _ in range(3)]
    for thread in threads:
        thread.start()
    seen = [count(link, "q") for _ in range(100)]
    for thread in threads:
        thread.join(60)
    assert seen == sorted(seen)
    assert count(link, "q") == 600


def test_a_publisher_that_is_interrupted_harms_nobody(
    rabbitmq_server: RabbitMQ, rabbitmq_vhost: str, make_link: MakeLink
) -> None:
    """As a soft time limit does it: an exception in the thread that waits for its confirm."""
    near = make_link()

    class EnoughError(Exception):
        pass

    def enough(signum: int, frame: object) -> None:
        raise EnoughError

    def interrupt() -> None:
        wait_until(lambda: count(near, "q") == 2)
        os.kill(os.getpid(), signal.SIGALRM)

    before = signal.signal(signal.SIGALRM, enough)
    try:
        with Proxy(rabbitmq_server.port) as proxy:
            link = make_link(f"amqp://guest:guest@127.0.0.1:{proxy.port}/{rabbitmq_vhost}")
            declare(link, "q")
            link.publish([Letter("", "q", b"\0\0", b"first")])
            proxy.hold("down")
            interrupting = threading.Thread(target=interrupt)
            interrupting.start()
            with pytest.raises(EnoughError):
                link.publish([Letter("", "q", b"\0\0", b"second")])
            interrupting.join(30)
            proxy.heal()
            link.publish([Letter("", "q", b"\0\0", b"third")])
            assert [take(link, "q").body for _ in range(3)] == [b"first", b"second", b"third"]
    finally:
        signal.signal(signal.SIGALRM, before)


def test_who_sends_what_is_refused_harms_nobody_else(allow: Callable[..., str], make_link: MakeLink) -> None:
    """The server ends the channel that all share."""
    link = make_link(allow("^q$", "^(q|amq.default|nowhere)$", "^q$"))
    declare(link, "q")
    refused: list[BrokerError] = []
    enough = threading.Event()

    def offend() -> None:
        while not enough.is_set():
            for exchange in ("amq.topic", "nowhere"):
                try:
                    link.publish([Letter(exchange, "q", b"\0\0", b"x")])
                except BrokerError as error:
                    refused.append(error)

    offender = threading.Thread(target=offend)
    offender.start()
    try:
        for _ in range(200):
            link.publish([letter(), letter()])
        wait_until(lambda: len(refused) >= 2)
    finally:
        enough.set()
        offender.join(60)
    assert {(getattr(error, "code", str(error)), error.temporary) for error in refused} == {(403, False), (404, False)}
    assert count(link, "q") >= 400


def test_what_no_queue_takes_is_told(make_link: MakeLink) -> None:
    link = make_link()
    declare(link, "q")
    assert link.publish([letter(), letter(key="nowhere")]).returned == {("", "nowhere"): "NO_ROUTE"}
    assert link.publish([letter()]).returned == {}


def test_what_others_sent_to_where_there_was_no_queue_is_not_told_as_theirs(
    make_link: MakeLink, rabbitmq_server: RabbitMQ, rabbitmq_vhost: str
) -> None:
    """It was taken, once there was a queue, and would be there twice if it was sent again."""
    proxy = Proxy(rabbitmq_server.port)
    try:
        link = make_link(f"amqp://127.0.0.1:{proxy.port}/{rabbitmq_vhost}")
        publisher = Publisher(link.connection())
        channel = publisher._channel  # the server does in turn what comes over one channel
        early = [letter(message_id=f"early-{number}") for number in range(3)]
        steps: list[Callable[[], Any]] = [
            lambda: publisher.publish([letter(key="elsewhere"), *early], 60.0),
            lambda: channel.call(frames.queue_declare(channel.number, "q", 2, {}), frames.QUEUE_DECLARE_OK),
            lambda: publisher.publish([letter(message_id="late")], 60.0),
        ]
        proxy.hold("down")
        with ThreadPoolExecutor(len(steps)) as threads:
            ends = []
            for step in steps:
                sent = proxy.count["up"]
                ends.append(threads.submit(step))
                wait_until(lambda sent=sent: proxy.count["up"] > sent)  # type: ignore[misc]
            proxy.heal()
            first, _, second = [end.result(60) for end in ends]
        assert first.returned == {("", "elsewhere"): "NO_ROUTE", ("", "q"): "NO_ROUTE"}
        assert [letter.properties for letter in first.back[1:]] == [letter.properties for letter in early]
        assert (second.returned, second.back) == ({}, [])
    finally:
        proxy.close()


def test_what_a_full_queue_refuses_is_told(make_link: MakeLink, monkeypatch: pytest.MonkeyPatch) -> None:
    """After it was sent again for as long as there is time."""
    link, clock, pauses = make_link(), FakeClock(), list[float]()
    declare(link, "q", **{"x-max-length": 2, "x-overflow": "reject-publish"})

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        clock.advance(seconds)

    fake = SimpleNamespace(monotonic=clock.monotonic, time=time.time, sleep=sleep)
    monkeypatch.setattr("celery.amqp.link.time", fake)
    assert link.publish([letter() for _ in range(5)]).refused == 3
    assert 28 < sum(pauses) < 30


def test_a_connection_has_as_many_channels_as_one_needs_in_a_row(make_link: MakeLink) -> None:
    connection = make_link().open()
    try:
        for _ in range(2100):  # the server allows 2047 at a time
            connection.channel().close()
    finally:
        connection.close()


def test_what_was_refused_is_sent_again_and_nothing_else(make_link: MakeLink) -> None:
    """A queue is full, or has no leader, only for a moment."""
    link = make_link()
    declare(link, "q", **{"x-max-length": 1, "x-overflow": "reject-publish"})
    link.publish([letter(b"first")])
    found: list[bytes] = []
    taker = threading.Thread(target=lambda: [found.append(take(other, "q").body) for _ in wait_for(other, "q", 3)])
    other = make_link()
    taker.start()
    assert link.publish([letter(b"second"), letter(b"third")]).refused == 0
    taker.join(30)
    assert sorted(found) == [b"first", b"second", b"third"]


def wait_for(link: Link, name: str, times: int) -> Iterator[int]:
    """Each time that there is something in the queue."""
    for number in range(times):
        wait_until(lambda: count(link, name))
        yield number


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.02)


def test_a_refused_request_does_not_harm_the_next(make_link: MakeLink) -> None:
    link = make_link()
    with pytest.raises(Refused, match="no queue 'absent'") as caught:
        count(link, "absent")
    assert caught.value.code == 404
    declare(link, "q")
    with pytest.raises(Refused, match="inequivalent arg") as caught:
        declare(link, "q", **{"x-max-length": 1})
    assert caught.value.code == 406
    assert count(link, "q") == 0


@pytest.mark.parametrize(
    ("user", "password", "vhost", "said"),
    [
        ("guest", "wrong", "v1", "refuses the user 'guest'"),
        ("nobody", "guest", "v1", "refuses the user 'nobody'"),
        ("guest", "guest", "absent", "vhost 'absent'"),
    ],
)
def test_wrong_keys_are_one_clear_error(
    rabbitmq_server: RabbitMQ, make_link: MakeLink, user: str, password: str, vhost: str, said: str
) -> None:
    link = make_link(rabbitmq_server.url(vhost, user, password))
    with pytest.raises(BrokerError, match=said) as caught:
        link.connection()
    assert not caught.value.temporary
    assert "wrong" not in str(caught.value)


def test_nobody_there_is_said_in_time(make_link: MakeLink) -> None:
    link = make_link(f"amqp://127.0.0.1:{free_port()}", timeout=0.5)
    started = time.monotonic()
    with pytest.raises(BrokerError, match=r"cannot be reached.*is it running") as caught:
        link.publish([letter()])
    assert caught.value.temporary
    assert time.monotonic() - started < 5


def test_the_next_url_is_taken_where_the_first_does_not_answer(rabbitmq_url: str, make_link: MakeLink) -> None:
    link = make_link(f"amqp://127.0.0.1:{free_port()};{rabbitmq_url}")
    declare(link, "q")
    link.publish([letter()])
    assert count(link, "q") == 1


def test_tls(rabbitmq_server: RabbitMQ, rabbitmq_vhost: str, certificates: Certificates, make_link: MakeLink) -> None:
    url = f"amqps://127.0.0.1:{rabbitmq_server.tls_port}/{rabbitmq_vhost}"
    link = make_link(url, ssl={"ca_certs": str(certificates.authority)})
    declare(link, "q")
    body = os.urandom(400_000)
    link.publish([letter(body) for _ in range(5)])
    assert [take(link, "q").body == body for _ in range(5)] == [True] * 5
    with pytest.raises(BrokerError, match="not to be trusted"):
        make_link(url).connection()


def test_tls_against_a_port_without_it(rabbitmq_url: str, make_link: MakeLink) -> None:
    with pytest.raises(BrokerError, match="RabbitMQ at 127"):
        make_link(rabbitmq_url.replace("amqp:", "amqps:"), timeout=2.0).connection()


@pytest.mark.parametrize("method", ["PLAIN", "AMQPLAIN"])
def test_login_methods(make_link: MakeLink, method: str) -> None:
    link = make_link(login_method=method)
    assert link.connection().product == "RabbitMQ"


def test_a_black_hole_ends_in_an_error(rabbitmq_server: RabbitMQ, rabbitmq_vhost: str, make_link: MakeLink) -> None:
    with Proxy(rabbitmq_server.port) as proxy:
        link = make_link(f"amqp://127.0.0.1:{proxy.port}/{rabbitmq_vhost}", timeout=1.0, connect_timeout=0.5)
        link.retried(lambda: declare(link, "q"), 30)
        proxy.swallow()
        started = time.monotonic()
        with pytest.raises(BrokerError) as caught:
            link.publish([letter()])
        assert caught.value.temporary
        assert time.monotonic() - started < 6
        proxy.heal()
        link.retried(lambda: link.publish([letter()]), 30)
        assert link.retried(lambda: count(link, "q"), 30) >= 1


def test_silence_of_two_heartbeats_ends_a_connection(
    rabbitmq_server: RabbitMQ, rabbitmq_vhost: str, make_link: MakeLink
) -> None:
    with Proxy(rabbitmq_server.port) as proxy:
        link = make_link(f"amqp://127.0.0.1:{proxy.port}/{rabbitmq_vhost}", heartbeat=1)
        connection, ended = link.connection(), threading.Event()
        connection.on_end = ended.set
        assert not ended.wait(3.0), "with heartbeats, silence of the application is none"
        proxy.swallow()
        assert ended.wait(10)
        assert any(word in str(connection.ended) for word in ("silent", "closed", "broke"))  # the server may be first
        assert connection.state == "ended"


def test_a_connection_on_which_somebody_only_listens_is_watched(
    rabbitmq_server: RabbitMQ, rabbitmq_vhost: str, make_link: MakeLink
) -> None:
    """A black hole ends it long before two heartbeats; that there is nothing to say does not."""
    with Proxy(rabbitmq_server.port) as proxy:
        link = make_link(f"amqp://127.0.0.1:{proxy.port}/{rabbitmq_vhost}", timeout=4.0, heartbeat=600)
        connection, ended = link.open(), threading.Event()
        connection.on_end = ended.set
        said = proxy.count["down"]
        assert not ended.wait(6.0)
        assert proxy.count["down"] > said, "it was never asked"
        proxy.swallow()
        assert ended.wait(30)
        assert "has not answered for 4 s" in str(connection.ended)


def test_a_blocked_connection_says_so(rabbitmq_server: RabbitMQ, make_link: MakeLink) -> None:
    link = make_link(timeout=90)
    declare(link, "q")
    link.publish([letter()])
    rabbitmq_server.control("set_vm_memory_high_watermark", "absolute", "1MB")
    patient = threading.Thread(target=link.publish, args=([letter()],))
    try:
        patient.start()  # the server says so only to whoever publishes
        wait_until(lambda: link.connection().state == "blocked")
        link.timeout = 0.5
        with pytest.raises(BrokerError, match="takes no messages for now: low on memory") as caught:
            link.publish([letter()])
        assert caught.value.temporary
        assert link.connection().state == "blocked"
    finally:
        rabbitmq_server.control("set_vm_memory_high_watermark", "0.8")
        patient.join(90)
    link.timeout = 30.0
    assert link.connection().flowing.wait(30)
    link.publish([letter()])
    assert link.connection().state == "open"
    assert count(link, "q") == 3, "whoever has waited has been served"


@pytest.fixture(scope="module")
def restarted(mortal_rabbitmq: RabbitMQ) -> tuple[BrokerError | None, int]:
    """What is said while a node is dead, and what is there when it has come back."""
    link = Link(mortal_rabbitmq.url(), {"timeout": 30.0})
    said = None
    try:
        declare(link, "q")
        mortal_rabbitmq.control("eval", "mnesia:sync_log().")  # its list of queues is on disk a moment later otherwise
        link.publish([letter() for _ in range(100)])
        mortal_rabbitmq.kill()
        link.timeout = 1.0
        try:
            link.publish([letter()])
        except BrokerError as error:
            said = error
        finally:
            mortal_rabbitmq.start()
        link.timeout = 30.0
        link.retried(lambda: link.publish([letter()]), 30)
        return said, count(link, "q")
    finally:
        link.close()


def test_a_node_that_is_killed_and_comes_back(restarted: tuple[BrokerError | None, int]) -> None:
    said, found = restarted
    assert said is not None
    assert said.temporary
    assert "RabbitMQ at" in str(said)
    assert found >= 101, "what was confirmed is still there"


def test_a_forked_child_has_connections_of_its_own(make_link: MakeLink) -> None:
    link = make_link()
    declare(link, "q")
    link.publish([letter(b"parent")])
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            link.publish([letter(b"child")])
            link.close()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    link.publish([letter(b"parent again")])
    assert [take(link, "q").body for _ in range(3)] == [b"parent", b"child", b"parent again"]


@pytest.mark.parametrize(
    ("url", "vhost"),
    [
        ("amqp://", "/"),
        ("amqp://host", "/"),
        ("amqp://host/", "/"),
        ("amqp://host//", "/"),
        ("pyamqp://u:p@host:1/site", "site"),
        ("amqps://host/%2Fsite", "/site"),
    ],
)
def test_urls(url: str, vhost: str) -> None:
    assert Address(url, {}).vhost == vhost


def test_parts_of_urls() -> None:
    place = Address("amqp://me:p%40ss@[::1]:77/v;amqps://other", {}).places
    assert [(p.host, p.port, p.user, p.password, p.vhost, p.tls) for p in place] == [
        ("::1", 77, "me", "p@ss", "v", False),
        ("other", 5671, "guest", "guest", "/", True),
    ]


@pytest.mark.parametrize(
    ("url", "options", "said"),
    [
        ("amqp://u:p:x@h:port", {}, "percent-encoded"),
        ("amqp://h;redis://h", {}, "redis://"),
        ("amqp://h?hartbeat=3", {}, "hartbeat"),
        ("amqp://h", {"login_method": "MAGIC"}, "MAGIC"),
        ("amqp://h", {"heartbeat": "often"}, "heartbeat"),
    ],
)
def test_what_cannot_be_an_address(url: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=said):
        Address(url, options)


def test_tables_refuse_what_amqp_has_no_form_for() -> None:
    with pytest.raises(EncodeError, match="object"):
        encode_table({"a": object()})
    with pytest.raises(EncodeError, match="255"):
        encode_table({"a" * 256: 1})
    with pytest.raises(ValueError, match=r"does not end|unknown type"):
        decode_table(b"\0\0\0\x04\x01aV\0\0\0\0\0\0", 0)
