"""Links and channels over TLS: verified unless it is said otherwise, and as robust as without."""

from __future__ import annotations

import logging
import random
import signal
import ssl
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from celery.exceptions import BrokerError
from celery.redis.channel import Channel
from celery.redis.link import Link
from celery.redis.wire import pack
from rig.certificates import Certificates
from rig.redis import RedisServer

MakeServer = Callable[..., RedisServer]
MakeLink = Callable[..., Link]
GRACE = 30.0
PATIENT = 90.0
"""The timeout of a link that is to be told something at once, which `GRACE` is in comparison."""


@pytest.fixture(scope="module")
def tls_server(
    server: Callable[[str], Path], certificates: Certificates, tmp_path_factory: pytest.TempPathFactory
) -> Any:
    running = RedisServer(server("redis"), tmp_path_factory.mktemp("tls"), tls=certificates)
    yield running
    running.stop()


@pytest.fixture
def link(tls_server: RedisServer, certificates: Certificates, make_link: MakeLink) -> Link:
    tls_server.ask("FLUSHALL")
    return make_link(f"{tls_server.url(2)}?ssl_ca_certs={certificates.authority}")


@pytest.mark.parametrize(
    ("query", "options"),
    [
        ("?ssl_cert_reqs=required&ssl_ca_certs={ca}", {}),
        ("?ssl_cert_reqs=CERT_REQUIRED&ssl_ca_certs={ca}&ssl_check_hostname=true", {}),
        ("?ssl_ca_path={folder}&ssl_ca_certs={ca}", {}),
        ("", {"ssl": {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_ca_certs": "{ca}"}}),
        ("", {"ssl": {"cert_reqs": ssl.CERT_REQUIRED, "ca_certs": "{ca}"}}),
        ("", {"ssl_ca_certs": "{ca}", "ssl_min_version": "TLSv1_2"}),
        ("?ssl_ca_certs={ca}&ssl_certfile={client}&ssl_keyfile={key}", {}),
    ],
)
def test_a_server_whose_certificate_is_good(
    query: str, options: dict[str, Any], tls_server: RedisServer, certificates: Certificates, make_link: MakeLink
) -> None:
    names = {
        "ca": certificates.authority,
        "folder": certificates.folder,
        "client": certificates.client,
        "key": certificates.client_key,
    }

    def fill(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: fill(inner) for name, inner in value.items()}
        return value.format(**names) if isinstance(value, str) else value

    assert make_link(tls_server.url() + fill(query), **fill(options)).call("PING") == b"PONG"


def test_options_alone_turn_tls_on(tls_server: RedisServer, certificates: Certificates, make_link: MakeLink) -> None:
    url = tls_server.url().replace("rediss", "redis")
    assert make_link(url, ssl={"ssl_ca_certs": certificates.authority}).call("PING") == b"PONG"


@pytest.mark.parametrize("options", [{}, {"ssl": True}, {"ssl_cert_reqs": "required"}, {"ssl_cert_reqs": "optional"}])
def test_a_certificate_of_an_unknown_authority_is_refused_at_once(
    options: dict[str, Any], tls_server: RedisServer, make_link: MakeLink
) -> None:
    began = time.monotonic()
    with pytest.raises(BrokerError, match=r"its certificate is not to be trusted .*; give ssl_ca_certs") as caught:
        make_link(tls_server.url(), **options, timeout=PATIENT).call("PING")
    assert time.monotonic() - began < GRACE
    assert caught.value.temporary is False  # type: ignore[attr-defined]
    assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)


def test_a_certificate_of_another_host_is_refused(
    make_server: MakeServer, certificates: Certificates, make_link: MakeLink
) -> None:
    # GIVEN a server at an address that is not in its certificate
    server = make_server(tls=certificates, bind="127.0.0.1 127.0.0.2")
    url = server.url().replace("127.0.0.1", "127.0.0.2")
    options = {"ssl_ca_certs": certificates.authority}

    # THEN it is refused, unless addresses do not matter
    with pytest.raises(BrokerError, match=r"its certificate is not to be trusted \(.*127\.0\.0\.2"):
        make_link(url, **options).call("PING")
    assert make_link(url, ssl_check_hostname=False, **options).call("PING") == b"PONG"
    assert make_link(f"{url}?ssl_check_hostname=false", **options).call("PING") == b"PONG"


def test_hosts_by_name(tls_server: RedisServer, certificates: Certificates, make_link: MakeLink) -> None:
    url = tls_server.url().replace("127.0.0.1", "localhost")
    assert make_link(url, ssl_ca_certs=certificates.authority).call("PING") == b"PONG"


@pytest.mark.parametrize("none", ["none", "CERT_NONE", ssl.CERT_NONE])
def test_who_does_not_verify_is_warned(
    none: Any, tls_server: RedisServer, make_link: MakeLink, caplog: pytest.LogCaptureFixture
) -> None:
    link = make_link(tls_server.url(), ssl={"ssl_cert_reqs": none})
    assert link.call("PING") == b"PONG"
    link.close()
    assert link.call("PING") == b"PONG"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "are not verified (ssl_cert_reqs=none)" in caplog.text


def test_a_server_that_wants_a_certificate_of_its_clients(
    make_server: MakeServer, certificates: Certificates, make_link: MakeLink
) -> None:
    server = make_server(tls=certificates)
    server.ask("CONFIG", "SET", "tls-auth-clients", "yes")
    authority = {"ssl_ca_certs": certificates.authority}
    with pytest.raises(BrokerError):
        make_link(server.url(), timeout=0.5, **authority).call("PING")
    own = {"ssl_certfile": certificates.client, "ssl_keyfile": certificates.client_key}
    assert make_link(server.url(), **authority, **own).call("PING") == b"PONG"


def test_tls_and_no_tls_taken_for_each_other(
    redis_url: str, tls_server: RedisServer, certificates: Certificates, make_link: MakeLink
) -> None:
    with pytest.raises(BrokerError, match=r"it does not answer as TLS does \(write redis:// if this port does not\)"):
        make_link(redis_url.replace("redis:", "rediss:"), timeout=0.5).call("PING")
    with pytest.raises(BrokerError, match=r"rediss:// if it expects TLS"):
        make_link(tls_server.url().replace("rediss:", "redis:"), timeout=0.5).call("PING")


def test_files_that_are_not_there(tls_server: RedisServer, tmp_path: Path, make_link: MakeLink) -> None:
    began = time.monotonic()
    with pytest.raises(BrokerError, match=r"its TLS options cannot be used: .*none\.pem"):
        make_link(tls_server.url(), ssl_ca_certs=str(tmp_path / "none.pem"), timeout=PATIENT).call("PING")
    assert time.monotonic() - began < GRACE


def test_fifty_megabytes_there_and_back(link: Link) -> None:
    link.timeout = 60
    value = random.randbytes(50_000_000)
    assert link.call("SET", "large", value) == b"OK"
    assert link.call("GET", "large") == value
    assert link.calls([("ECHO", value[:100_000])] * 30) == [value[:100_000]] * 30
    with link.lane() as lane:
        assert lane.made == 1


def test_threads_share_a_link(link: Link) -> None:
    def work(thread: int) -> list[bytes]:
        return [link.call("ECHO", f"{thread}.{number}") for number in range(200)]

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(work, range(4)))
    assert found == [[b"%d.%d" % (thread, number) for number in range(200)] for thread in range(4)]


def test_a_server_that_stands_still_and_one_that_restarts(
    make_server: MakeServer, certificates: Certificates, make_link: MakeLink
) -> None:
    server = make_server(tls=certificates)
    link = make_link(server.url(), ssl_ca_certs=certificates.authority, timeout=PATIENT)
    link.call("PING")
    server.pause()
    link.timeout = 2.0
    began = time.monotonic()
    with pytest.raises(BrokerError, match="cannot be reached"):
        link.call("PING")
    assert 1.6 <= time.monotonic() - began < GRACE
    link.timeout = PATIENT
    server.resume()
    assert link.call("PING") == b"PONG"
    server.restart(kill=True)
    assert link.call("PING") == b"PONG"


class Interrupt(Exception):
    """What a signal raises."""


def test_an_answer_that_nobody_reads_closes_the_lane(link: Link, tls_server: RedisServer) -> None:
    link.timeout = PATIENT
    link.call("PING")
    target = threading.get_ident()

    def strike(*_: Any) -> None:
        raise Interrupt

    def send() -> None:
        deadline = time.monotonic() + GRACE
        while b" cmd=blpop " not in tls_server.ask("CLIENT", "LIST"):
            assert time.monotonic() < deadline
        signal.pthread_kill(target, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, strike)
    try:
        with ThreadPoolExecutor(1) as pool:
            sent = pool.submit(send)
            with pytest.raises(Interrupt):
                link.call("BLPOP", "list", 0)
            sent.result(GRACE)
    finally:
        signal.signal(signal.SIGUSR1, before)
    link.call("RPUSH", "list", "late")
    assert link.call("ECHO", "mine") == b"mine"


def test_a_channel(link: Link, listen: Callable[[Link], Channel], caplog: pytest.LogCaptureFixture) -> None:
    # GIVEN a channel over TLS
    caplog.set_level(logging.INFO, "celery")
    channel = listen(link)
    channel.subscribe("one")

    # THEN messages of all sizes arrive, also those that came in one record
    payloads = [random.randbytes(size) for size in (0, 10, 20_000, 3_000_000)]
    with link.lane() as lane:
        packed = b"".join(pack(("PUBLISH", "one", payload)) for payload in payloads)
        link.exchange(lane, packed, len(payloads))
    assert [channel.get(GRACE) for _ in payloads] == [("message", b"one", payload) for payload in payloads]

    # AND threads subscribe while another one reads
    with ThreadPoolExecutor(5) as pool:
        reading = pool.submit(lambda: [channel.get(GRACE) for _ in range(80)])

        def work(thread: int) -> None:
            for number in range(20):
                channel.subscribe(f"{thread}.{number}")
                assert link.call("PUBLISH", f"{thread}.{number}", "x") == 1

        for done in [pool.submit(work, thread) for thread in range(4)]:
            done.result(GRACE)
        assert len({found[1] for found in reading.result(GRACE) if found}) == 80

    # AND it comes back
    link.call("CLIENT", "KILL", "ID", channel.client_id())
    deadline = time.monotonic() + GRACE
    while channel.generation < 2 and time.monotonic() < deadline:
        channel.get(0.05)
    assert link.call("PUBLISH", "one", "again") == 1
    assert channel.get(GRACE) == ("message", b"one", b"again")
