"""The life of a link to a Redis server: its states, its refusals, what it survives, and within what time."""

from __future__ import annotations

import itertools
import os
import random
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from celery.exceptions import BackendError, BrokerError
from celery.redis import link as link_module
from celery.redis import wire as wire_module
from celery.redis.greeting import Server, refuse_unusable
from celery.redis.link import Lane, Link
from celery.redis.replies import LATER, code_of
from celery.redis.scripts import Script
from celery.redis.wire import CHUNK, MISSES, REST, SPINS, StreamWire, Wire, pack
from rig.proxy import Proxy
from rig.redis import RedisServer, free_port, replica

MakeServer = Callable[..., RedisServer]
MakeLink = Callable[..., Link]
GRACE = 30.0
PATIENT = 90.0
"""The timeout of a link that is to be told something at once, which `GRACE` is in comparison."""

COUNT = Script("count", "return redis.call('INCR', KEYS[1])")
FAIL_TWICE = Script(
    "fail_twice",
    "if redis.call('INCR', KEYS[1]) < 3 then return redis.error_reply(ARGV[1] .. ' for a test') end return 'done'",
)


class Interrupt(Exception):
    """What a signal raises, as a soft time limit does."""


@contextmanager
def lasting(least: float, most: float) -> Iterator[None]:
    """The block takes so many seconds."""
    began = time.monotonic()
    yield
    assert least <= time.monotonic() - began <= most


@pytest.fixture
def alarm() -> Iterator[Callable[[float], None]]:
    """`alarm(seconds)`: raise `Interrupt` in the main thread then."""

    def strike(*_: Any) -> None:
        raise Interrupt

    def alarm(seconds: float) -> None:
        if signal.getsignal(signal.SIGALRM) is not strike:  # not before the test has begun, whose timeout sets it too
            signal.signal(signal.SIGALRM, strike)
        signal.setitimer(signal.ITIMER_REAL, seconds)

    before = signal.getsignal(signal.SIGALRM)
    yield alarm
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def clients(server: RedisServer) -> list[str]:
    """The names of the connections that the server has, without that which asks."""
    listed = server.ask("CLIENT", "LIST").decode().splitlines()
    return [line.partition(" name=")[2].split()[0] for line in listed if " name= " not in line]


@contextmanager
def signal_once_blocked(server: RedisServer) -> Iterator[None]:
    """Send this thread SIGUSR1 when a request of the block has been blocked by the server."""
    target = threading.get_ident()

    def send() -> None:
        wait_until(lambda: b" cmd=blpop " in server.ask("CLIENT", "LIST"))
        signal.pthread_kill(target, signal.SIGUSR1)

    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(send)
        yield
        sent.result(GRACE)


def wait_until(ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + GRACE
    while not ready():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.005)


# -- states ------------------------------------------------------------------------------------------------------------


def test_a_lane_is_connected_by_its_first_request_and_ready_after_each(redis_url: str, make_link: MakeLink) -> None:
    # GIVEN a lane
    link = make_link(redis_url)
    with link.lane() as lane:
        assert (lane.state, lane.connected, lane.made) == ("closed", False, 0)

        # WHEN requests go over it
        for _ in range(3):
            link.exchange(lane, pack(("PING",)))

            # THEN it stays connected
            assert (lane.state, lane.connected, lane.made) == ("ready", True, 1)


def test_a_lane_is_busy_while_it_waits_for_an_answer(redis_url: str, make_link: MakeLink) -> None:
    link = make_link(redis_url)
    lane = link.take()
    link.exchange(lane, pack(("PING",)))
    with ThreadPoolExecutor(1) as pool:
        # WHEN a request is blocked in the server
        answer = pool.submit(link.exchange, lane, pack(("BLPOP", "list", 0)))
        wait_until(lambda: lane.state == "busy")

        # THEN nobody else gets that lane
        assert not lane.connected
        assert link.call("RPUSH", "list", "item") == 1
        assert answer.result(GRACE) == [[b"list", b"item"]]
    assert lane.state == "ready"
    lane.lock.release()


def test_a_refused_lane_is_closed(redis_url: str, make_link: MakeLink) -> None:
    link = make_link(redis_url + "99")
    with link.lane() as lane:
        with pytest.raises(BrokerError):
            link.exchange(lane, pack(("PING",)))
        assert (lane.state, lane.made) == ("closed", 0)


def test_a_killed_connection_is_made_anew(redis_url: str, redis_server: RedisServer, make_link: MakeLink) -> None:
    # GIVEN a link whose connection the server has killed
    link = make_link(redis_url)
    assert link.call("SET", "a", 1) == b"OK"
    redis_server.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    # THEN the next request finds another one
    assert link.call("GET", "a") == b"1"
    with link.lane() as lane:
        assert lane.made == 2


def test_a_restarted_server_is_found_again(make_server: MakeServer, make_link: MakeLink) -> None:
    # GIVEN threads that count on a server, and load their script there
    server = make_server(appendonly="yes", appendfsync="always")
    link = make_link(server.url(), timeout=PATIENT)
    done = threading.Event()

    def count() -> int:
        for counted in itertools.count(1):
            link.run(COUNT, ["counter"], [])
            if done.is_set():
                return counted
        raise AssertionError

    with ThreadPoolExecutor(3) as pool:
        counts = [pool.submit(count) for _ in range(3)]
        wait_until(lambda: link.call("GET", "counter") is not None)

        # WHEN the server is restarted meanwhile
        server.restart(kill=True)
        before = int(link.call("GET", "counter"))
        wait_until(lambda: int(link.call("GET", "counter")) > before + 100)
        done.set()

        # THEN they all go on; requests under way may have been carried out twice, none was lost
        total = sum(found.result(GRACE) for found in counts)
    assert total <= int(link.call("GET", "counter")) <= total + 3


# -- what is said at the start -----------------------------------------------------------------------------------------


def test_greeting_and_check_cost_one_round_trip(redis_url: str, redis_server: RedisServer, make_link: MakeLink) -> None:
    def reads() -> int:
        lines = redis_server.ask("INFO", "stats").decode().splitlines()
        return next(int(line.partition(":")[2]) for line in lines if line.startswith("total_reads_processed:"))

    # GIVEN what the server reads for looking at the figure
    reads()
    before = reads()
    asking = reads() - before

    # WHEN a new link sends its first request
    make_link(redis_url.removesuffix("/0") + "/3").call("PING")

    # THEN the server was read from twice more: for the greeting, with all that is checked, and for the request
    assert reads() - before - 2 * asking == 2


def test_what_is_known_of_the_server(make_server: MakeServer, make_link: MakeLink) -> None:
    server = make_server(maxmemory="100mb", maxmemory_policy="allkeys-lru")
    known = make_link(server.url()).server
    assert known.version >= (6, 2)
    assert (known.role, known.mode) == ("primary", "standalone")
    assert (known.maxmemory_policy, known.maxmemory) == ("allkeys-lru", 100 * 2**20)


def test_connections_have_a_name(redis_url: str, redis_server: RedisServer, make_link: MakeLink) -> None:
    make_link(redis_url).call("PING")
    assert any(name.startswith(f"celery:{os.getpid()}@") for name in clients(redis_server))
    make_link(redis_url, client_name="orders-7").call("PING")
    assert "orders-7" in clients(redis_server)


def test_the_driver_may_refuse_a_server(redis_url: str, make_link: MakeLink) -> None:
    def check(server: Server) -> str | None:
        return refuse_unusable(server) or f"it is {server.role}, which this test does not like"

    with pytest.raises(BrokerError, match=r"refuses: it is primary, which this test does not like\.$"):
        make_link(redis_url, check=check).call("PING")


@pytest.mark.parametrize(
    ("server", "words"),
    [
        (Server(version=(6, 0, 16)), "this is Redis 6.0.16, and Redis 6.2 or later is needed"),
        (Server(version=(7, 0), mode="cluster"), "part of a Redis Cluster"),
        (Server(version=(7, 0), mode="sentinel"), "it is a sentinel; write sentinel://"),
        (Server(version=(6, 2), mode="standalone"), None),
        (Server(), None),
    ],
)
def test_servers_that_cannot_be_used(server: Server, words: str | None) -> None:
    found = refuse_unusable(server)
    assert found is None if words is None else words in str(found)


def test_a_server_of_a_cluster_is_refused(make_server: MakeServer, make_link: MakeLink) -> None:
    with pytest.raises(BrokerError, match="part of a Redis Cluster"):
        make_link(make_server(cluster_enabled="yes", cluster_port=str(free_port())).url()).call("PING")


@contextmanager
def scripted(*answers: bytes) -> Iterator[str]:
    """The URL of something that is no Redis: it answers so to what it reads, then closes."""
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        listener.settimeout(0.05)
        stopped = threading.Event()

        def serve() -> None:
            while not stopped.is_set():
                try:
                    connection, _ = listener.accept()
                except TimeoutError:
                    continue
                with connection:
                    for answer in answers:
                        connection.recv(65536)
                        connection.sendall(answer)

        pool.submit(serve)
        try:
            yield f"redis://127.0.0.1:{listener.getsockname()[1]}/0"
        finally:
            stopped.set()


def test_an_old_server_that_does_not_know_hello_is_refused(make_link: MakeLink) -> None:
    info = b"redis_version:5.0.7\r\nredis_mode:standalone\r\n"
    first = b"-ERR unknown command `HELLO`\r\n+OK\r\n$0\r\n\r\n"
    second = b"$%d\r\n%s\r\n$13\r\nrole:master\r\n\r\n" % (len(info), info)
    with scripted(first, second) as url, pytest.raises(BrokerError, match=r"this is Redis 5\.0\.7, and Redis 6\.2"):
        make_link(url).call("PING")


def test_what_does_not_speak_the_protocol_is_refused_at_once(make_link: MakeLink) -> None:
    words = "it does not speak the protocol of Redis; check host and port"
    with (
        scripted(b"HTTP/1.1 400 Bad Request\r\n\r\n") as url,
        lasting(0, GRACE),
        pytest.raises(BrokerError, match=words) as caught,
    ):
        make_link(url, timeout=PATIENT).call("PING")
    assert caught.value.temporary is False  # type: ignore[attr-defined]


# -- refusals ----------------------------------------------------------------------------------------------------------

USERS = [
    "alice on >s3cret ~* &* +@all",
    "bob on >s3cret ~bob:* resetchannels +get +hello",
    "nora on nopass ~* &* +@all",
]


@pytest.fixture(scope="module")
def guarded(server: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server that knows its users."""
    folder = tmp_path_factory.mktemp("guarded")
    running = RedisServer(server("redis"), folder, requirepass="s3cret", user=USERS)
    yield running
    running.stop()


@pytest.mark.parametrize(
    ("who", "name"),
    [
        (":s3cret@", b"default"),
        ("default:s3cret@", b"default"),
        ("alice:s3cret@", b"alice"),
        ("nora@", b"nora"),
    ],
)
def test_users_are_let_in(who: str, name: bytes, guarded: RedisServer, make_link: MakeLink) -> None:
    link = make_link(guarded.url(2).replace("//", f"//{who}"))
    assert link.call("ACL", "WHOAMI") == name
    assert " db=2 " in link.call("CLIENT", "LIST").decode()


@pytest.mark.parametrize(
    ("who", "words"),
    [
        ("", "it wants a password; write it into the URL: redis://:password@host"),
        (":wr0ng@", "check user and password in the URL"),
        ("alice:wr0ng@", "check user and password in the URL"),
        ("nobody:s3cret@", "check user and password in the URL"),
    ],
)
def test_others_are_not_and_that_is_said_at_once(
    who: str, words: str, guarded: RedisServer, make_link: MakeLink
) -> None:
    link = make_link(guarded.url().replace("//", f"//{who}"), timeout=PATIENT)
    with lasting(0, GRACE), pytest.raises(BrokerError) as caught:
        link.call("PING")
    assert words in str(caught.value)
    assert "s3cret" not in str(caught.value)
    assert "wr0ng" not in str(caught.value)
    assert caught.value.temporary is False


def test_a_password_that_the_server_does_not_want(redis_url: str, make_link: MakeLink) -> None:
    link = make_link(redis_url.replace("//", "//:s3cret@"), timeout=PATIENT)
    with lasting(0, GRACE), pytest.raises(BrokerError, match=r"it has no password, but the URL does; take it out"):
        link.call("PING")


def test_a_user_with_few_rights_is_told_so(guarded: RedisServer, make_link: MakeLink) -> None:
    # GIVEN a user who may neither name the connection nor ask the server about itself
    link = make_link(guarded.url().replace("//", "//bob:s3cret@"), timeout=PATIENT)

    # THEN what is allowed works, and the rest is refused with what to do
    assert link.call("GET", "bob:1") is None
    for command in (("GET", "other"), ("SET", "bob:1", 1)):
        with (
            lasting(0, GRACE),
            pytest.raises(BrokerError, match="give the user of the URL all commands, keys") as caught,
        ):
            link.call(*command)
        assert caught.value.code == "NOPERM"  # type: ignore[attr-defined]
        assert caught.value.temporary is False


def test_a_database_that_the_server_does_not_have(redis_url: str, make_link: MakeLink) -> None:
    link = make_link(redis_url.removesuffix("/0") + "/99", timeout=PATIENT)
    with lasting(0, GRACE), pytest.raises(BrokerError, match=r"it has no database 99; give another number") as caught:
        link.call("PING")
    assert caught.value.temporary is False


def test_errors_of_commands_have_their_code_and_the_kind_that_was_asked_for(
    redis_url: str, make_link: MakeLink
) -> None:
    link = make_link(redis_url, error=BackendError)
    link.call("SET", "text", "x")
    with pytest.raises(BackendError, match="refuses: WRONGTYPE Operation against a key") as caught:
        link.calls([("GET", "text"), ("LPUSH", "text", 1), ("SET", "text", "y")])
    assert caught.value.code == "WRONGTYPE"  # type: ignore[attr-defined]
    assert caught.value.temporary is False  # type: ignore[attr-defined]
    assert link.call("GET", "text") == b"y"


def test_a_full_server_is_a_temporary_refusal_at_once(make_server: MakeServer, make_link: MakeLink) -> None:
    # GIVEN a server whose memory is full
    link = make_link(make_server(maxmemory="3mb").url(), timeout=PATIENT)
    with lasting(0, GRACE), pytest.raises(BrokerError) as caught:
        link.calls([("SET", f"key{number}", b"x" * 100_000) for number in range(100)])

    # THEN that is said, and what to do
    assert "maxmemory is reached; raise it, consume or purge its queues" in str(caught.value)
    assert (caught.value.code, caught.value.temporary) == ("OOM", True)  # type: ignore[attr-defined]

    # AND the same from inside a script
    with lasting(0, GRACE), pytest.raises(BrokerError, match="maxmemory is reached") as caught:
        link.run(Script("grow", "return redis.call('SET', KEYS[1], ARGV[1])"), ["more"], [b"x" * 100_000])
    assert caught.value.code == "OOM"  # type: ignore[attr-defined]

    # AND reading goes on
    assert link.call("GET", "key0") == b"x" * 100_000


def test_codes_are_found_where_older_servers_put_them() -> None:
    text = "ERR Error running script (call to f_1): @user_script:1: @user_script: 1: -READONLY You can't write. "
    assert code_of(Exception(text)) == "READONLY"
    assert code_of(Exception("ERR Error running script (call to f_1): @user_script:3: oh")) == "ERR"


def test_a_password_that_changes_is_asked_for_again(make_server: MakeServer, make_link: MakeLink) -> None:
    # GIVEN a user whom a credential provider names
    guarded = make_server(user=USERS)

    class Provider:
        password = "s3cret"

        def get_credentials(self) -> tuple[str, str]:
            return "alice", self.password

    provider = Provider()
    link = make_link(guarded.url(), credential_provider=provider)
    link.call("PING")

    # WHEN its password changes, and the server ends its connections
    guarded.ask("ACL", "SETUSER", "alice", "resetpass", ">n3w")
    guarded.ask("CLIENT", "KILL", "USER", "alice")
    provider.password = "n3w"

    # THEN the new one is used
    assert link.call("ACL", "WHOAMI") == b"alice"


# -- servers that will answer later ------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [*sorted(LATER - {"MAXCLIENTS"}), "NOAUTH"])
def test_a_server_that_is_not_ready_is_asked_again(code: str, redis_url: str, make_link: MakeLink) -> None:
    # GIVEN a server that refuses twice because of its state
    link = make_link(redis_url)

    # THEN the request is repeated, each time on a new connection
    assert link.run(FAIL_TWICE, ["tries"], [code]) == b"done"
    with link.lane() as lane:
        assert lane.made == 3


def test_a_replica_is_no_server_to_write_to(make_server: MakeServer, make_link: MakeLink) -> None:
    # GIVEN a replica
    primary = make_server()
    follower = make_server(replica, primary)
    link = make_link(follower.url(), timeout=PATIENT)
    assert link.server.role == "replica"
    assert link.call("GET", "a") is None

    # THEN writing to it is tried until the deadline
    link.timeout = 0.5
    with lasting(0.4, GRACE), pytest.raises(BrokerError) as caught:
        link.call("SET", "a", 1)
    assert "is not ready: READONLY" in str(caught.value)
    assert "give the URL of the primary, or use sentinel://" in str(caught.value)
    assert (caught.value.code, caught.value.temporary) == ("READONLY", True)  # type: ignore[attr-defined]

    # AND it succeeds if it becomes the primary meanwhile
    link.timeout = PATIENT
    with ThreadPoolExecutor(1) as pool:
        written = pool.submit(link.call, "SET", "a", 1)
        follower.ask("REPLICAOF", "NO", "ONE")
        assert written.result(GRACE) == b"OK"


def test_a_server_with_too_many_clients(make_server: MakeServer, make_link: MakeLink) -> None:
    # GIVEN a server that has all the clients it takes
    server = make_server()
    others = make_link(server.url())
    with others.lane() as one, others.lane() as two:
        others.exchange(one, pack(("CONFIG", "SET", "maxclients", 2)))
        others.exchange(two, pack(("PING",)))

        # THEN a further one is told why
        with lasting(0.3, GRACE), pytest.raises(BrokerError, match="max number of clients reached") as caught:
            make_link(server.url(), timeout=0.5).call("PING")
        assert caught.value.temporary is True  # type: ignore[attr-defined]


# -- time --------------------------------------------------------------------------------------------------------------


def test_nobody_there(make_link: MakeLink) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with lasting(0.3, GRACE), pytest.raises(BrokerError) as caught:
        make_link(f"redis://:s3cret@127.0.0.1:{port}", timeout=0.5).call("PING")
    assert str(caught.value) == (
        f"Redis at redis://127.0.0.1:{port} cannot be reached: Connection refused; start the server there, or correct"
        " the URL."
    )
    assert caught.value.temporary is True  # type: ignore[attr-defined]


def test_no_such_socket(tmp_path: Any, make_link: MakeLink) -> None:
    with pytest.raises(BrokerError, match=r"No such file or directory; start the server there, or correct the URL\.$"):
        make_link(f"unix://{tmp_path}/none.sock", timeout=0.1).call("PING")


def test_a_server_that_stands_still_costs_the_timeout(make_server: MakeServer, make_link: MakeLink) -> None:
    # GIVEN a server that stands still, and a link with a timeout of a second
    server = make_server()
    link = make_link(server.url(), timeout=PATIENT)
    link.call("SET", "a", 1)
    server.pause()
    link.timeout = 1.0

    # THEN a request on the connection that stands, and one on a new link, end in time
    for other, timeout in ((link, 1.0), (make_link(server.url(), timeout=0.4), 0.4)):
        with (
            lasting(timeout * 0.8, GRACE),
            pytest.raises(BrokerError, match="see whether it hangs, is overloaded") as caught,
        ):
            other.call("GET", "a")
        assert caught.value.temporary is True  # type: ignore[attr-defined]

    # AND all is well afterwards
    server.resume()
    link.timeout = PATIENT
    assert link.call("GET", "a") == b"1"


def test_a_server_that_stands_still_for_a_moment_is_waited_for(make_server: MakeServer, make_link: MakeLink) -> None:
    server = make_server()
    link = make_link(server.url(), timeout=PATIENT)
    link.call("SET", "a", 1)
    server.pause()
    link.timeout = 3.0
    later = threading.Timer(1.6, server.resume)  # more than half of the timeout: on a second connection
    later.start()
    assert link.call("GET", "a") == b"1"
    later.join()


def test_a_connection_that_leads_nowhere_is_given_up_in_time_for_another(
    redis_server: RedisServer, redis_url: str, make_link: MakeLink
) -> None:
    # GIVEN a connection on which nothing arrives any more, as behind a router that has forgotten it
    with Proxy(redis_server.port) as proxy:
        link = make_link(proxy.url(), timeout=PATIENT)
        link.call("SET", "a", 1)
        proxy.swallow()
        link.timeout = 4.0
        healed = threading.Timer(0.3, proxy.heal)
        healed.start()

        # THEN half of the time is for it, and a new connection has the other half
        with lasting(1.6, 4.0):
            assert link.call("GET", "a") == b"1"
        healed.join()
        link.close()


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="capability: TCP's own timeouts")
@pytest.mark.parametrize(("options", "alive"), [({}, 1), ({"socket_keepalive": False}, 0)])
def test_tcp_notices_by_itself_that_nobody_is_there(
    options: dict[str, Any], alive: int, redis_url: str, make_link: MakeLink
) -> None:
    link = make_link(redis_url, **options)
    wire = link.open_wire(time.monotonic() + GRACE)
    assert wire.socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == alive
    if alive:
        assert wire.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 10_000
        names = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        idle, interval, count = (wire.socket.getsockopt(socket.IPPROTO_TCP, name) for name in names)
        assert idle + interval * count <= 10
    wire.close()


def test_options_of_keeping_alive(redis_url: str, make_link: MakeLink) -> None:
    link = make_link(redis_url, socket_keepalive_options={socket.TCP_KEEPINTVL: 17})
    wire = link.open_wire(time.monotonic() + GRACE)
    assert wire.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == 17
    wire.close()


def test_a_deadline_of_the_callers_own(make_server: MakeServer, make_link: MakeLink) -> None:
    server = make_server()
    link = make_link(server.url(), timeout=PATIENT)
    link.call("PING")
    server.pause()
    with lasting(0.2, GRACE), pytest.raises(BrokerError):
        link.call("PING", deadline=time.monotonic() + 0.3)


# -- sizes -------------------------------------------------------------------------------------------------------------


def test_fifty_megabytes_there_and_back(redis_url: str, make_link: MakeLink) -> None:
    link = make_link(redis_url, timeout=60)
    value = random.randbytes(50_000_000)
    assert link.call("SET", "large", value) == b"OK"
    assert link.call("GET", "large") == value
    with link.lane() as lane:
        assert lane.made == 1


def test_large_requests_with_large_answers_do_not_wait_for_each_other(redis_url: str, make_link: MakeLink) -> None:
    link = make_link(redis_url)
    values = [bytes([number]) * 1_000_000 for number in range(30)]
    assert link.calls([("ECHO", value) for value in values]) == values
    assert link.calls([]) == []


def test_many_small_commands_in_one_go(redis_url: str, make_link: MakeLink) -> None:
    assert make_link(redis_url).calls([("INCR", "n")] * 50_000) == list(range(1, 50_001))


# -- exceptions from outside -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("raised", [Interrupt, KeyboardInterrupt, SystemExit])
def test_an_answer_that_nobody_reads_closes_the_lane(
    raised: type[BaseException], redis_url: str, redis_server: RedisServer, make_link: MakeLink
) -> None:
    # GIVEN a request that is blocked in the server
    link = make_link(redis_url, timeout=PATIENT)
    link.call("PING")

    def strike(*_: Any) -> None:
        raise raised

    before = signal.signal(signal.SIGUSR1, strike)
    try:
        # WHEN a signal raises meanwhile
        with pytest.raises(raised), signal_once_blocked(redis_server):
            link.call("BLPOP", "list", 0)
    finally:
        signal.signal(signal.SIGUSR1, before)

    # THEN its answer, which comes later, is nobody else's
    with link.lane() as lane:
        assert lane.state == "closed"
    link.call("RPUSH", "list", "late")
    assert link.call("ECHO", "mine") == b"mine"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # sockets that were just being made
def test_exceptions_at_any_moment_never_mix_up_answers(
    redis_url: str, redis_server: RedisServer, make_link: MakeLink, alarm: Callable[[float], None]
) -> None:
    # GIVEN requests that signals interrupt at every possible place
    link = make_link(redis_url.removesuffix("/0") + "/3", max_connections=2, client_name="interrupted")
    interrupted = answered = number = 0
    begun = time.monotonic()
    while (now := time.monotonic()) < begun + 1.5 or (min(answered, interrupted) <= 100 and now < begun + GRACE):
        number += 1
        try:
            alarm(random.uniform(0.00002, 0.0004) * random.choice((1, 1, 1, 10)))  # on a busy machine all is slower
            for part in range(5):
                found = link.call("ECHO", f"{number}.{part}")

                # THEN an answer is always that to the request
                assert found == b"%d.%d" % (number, part)
                answered += 1
            alarm(0)
        except Interrupt:
            interrupted += 1
    assert interrupted > 100
    assert answered > 100

    # AND no connection is lost to a thread that did not get to use it
    with link.lane(), link.lane():
        # Which the server may still have to notice.
        wait_until(lambda: clients(redis_server).count("interrupted") <= 2)


def test_a_thread_that_is_left_behind_by_close_does_not_hold_it_up(redis_url: str, make_link: MakeLink) -> None:
    # GIVEN a request that is blocked in the server
    link = make_link(redis_url, timeout=PATIENT)
    own = link.open_lane()
    with own.lock:
        link.exchange(own, pack(("PING",)))

    def block() -> None:
        with own.lock:
            own.exchange(pack(("BLPOP", "list", 0)), 1, time.monotonic() + 60)

    with ThreadPoolExecutor(1) as pool:
        blocked = pool.submit(block)
        wait_until(lambda: own.state == "busy")

        # WHEN the link is closed
        link.timeout = 0.5
        with lasting(0, GRACE):
            link.close()
        link.timeout = PATIENT

        # THEN that request ends, and the link may be used again
        with pytest.raises(ConnectionError):
            blocked.result(GRACE)
        assert link.call("PING") == b"PONG"


# -- scripts -----------------------------------------------------------------------------------------------------------


def test_scripts_are_loaded_where_the_server_does_not_know_them(redis_url: str, make_link: MakeLink) -> None:
    link = make_link(redis_url)
    assert [link.run(COUNT, ["n"], []) for _ in range(2)] == [1, 2]
    link.call("SCRIPT", "FLUSH")
    assert link.run(COUNT, ["n"], []) == 3
    with link.lane() as lane:
        assert link.run(COUNT, ["n"], [], lane) == 4
        link.exchange(lane, pack(("SCRIPT", "FLUSH")))
        assert link.run(COUNT, ["n"], [], lane) == 5
        assert lane.made == 1


def test_scripts_may_be_flushed_at_any_time(redis_url: str, make_link: MakeLink) -> None:
    link, done = make_link(redis_url), threading.Event()

    def flush() -> None:
        while not done.is_set():
            link.call("SCRIPT", "FLUSH")

    with ThreadPoolExecutor(1) as pool:
        flushing = pool.submit(flush)
        assert [link.run(COUNT, ["n"], []) for _ in range(500)] == list(range(1, 501))
        done.set()
        flushing.result(GRACE)


def test_a_script_that_is_wrong(redis_url: str, make_link: MakeLink) -> None:
    with pytest.raises(BrokerError, match="Error compiling script"):
        make_link(redis_url).run(Script("wrong", "return ("), [], [])


# -- lanes for several threads -----------------------------------------------------------------------------------------


def test_threads_share_a_link(redis_url: str, redis_server: RedisServer, make_link: MakeLink) -> None:
    link = make_link(redis_url, client_name="shared")

    def work(thread: int) -> list[bytes]:
        return [link.call("ECHO", f"{thread}.{number}") for number in range(300)]

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(work, range(8)))
    assert found == [[b"%d.%d" % (thread, number) for number in range(300)] for thread in range(8)]
    assert clients(redis_server).count("shared") <= 8


def test_connections_are_limited(redis_url: str, redis_server: RedisServer, make_link: MakeLink) -> None:
    # GIVEN a link with two connections, which eight threads use
    link = make_link(redis_url, client_name="limited", max_connections=2, limit=7)
    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(lambda _: link.call("INCR", "n"), range(800))) == list(range(1, 801))
    assert 1 <= clients(redis_server).count("limited") <= 2

    # WHEN both are taken for longer than the timeout
    with link.lane(), link.lane():
        link.timeout = 0.2
        with lasting(0.1, GRACE), pytest.raises(BrokerError) as caught:
            link.call("PING")
    link.timeout = PATIENT

    # THEN that is said
    assert "All 2 connections to Redis at" in str(caught.value)
    assert caught.value.temporary is True  # type: ignore[attr-defined]
    assert link.call("PING") == b"PONG"


def test_connections_that_are_not_needed_any_more_are_closed(
    redis_url: str, redis_server: RedisServer, make_link: MakeLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    # GIVEN a link with one user's own connection, and five more of a busy moment
    monkeypatch.setattr(link_module, "SURPLUS", PATIENT)
    link = make_link(redis_url, client_name="surplus")
    own = link.open_lane()
    lanes = [link.take() for _ in range(6)]
    assert lanes[0] is own
    for lane in lanes:
        link.exchange(lane, pack(("PING",)))
        lane.lock.release()
    assert clients(redis_server).count("surplus") == 6

    # WHEN it is used by one thread from now on
    monkeypatch.setattr(link_module, "SURPLUS", 0.2)
    link._trim_at = 0.0

    def alone() -> bool:
        link.call("PING")
        return clients(redis_server).count("surplus") == 1

    # THEN one is left: that of the user
    wait_until(alone)
    assert (own.made, own.connected) == (1, True)


def test_a_childs_requests_go_over_connections_of_its_own(redis_url: str, make_link: MakeLink) -> None:
    # GIVEN a link with two connections, one of them in use
    link = make_link(redis_url)
    kept = link.open_lane()
    with link.lane() as used:
        parents = link.exchange(used, pack(("CLIENT", "ID")))
        link.call("PING")
        reading, writing = os.pipe()

        # WHEN the process forks
        child = os.fork()
        if child == 0:  # pragma: no cover - another process
            try:
                answers = [link.call("ECHO", str(number)) for number in range(100)]
                right = answers == [b"%d" % number for number in range(100)]
                with kept.lock:
                    childs = link.exchange(kept, pack(("CLIENT", "ID")))
                link.close()
                os.write(writing, b"good" if right and childs != parents else b"bad")
            finally:
                os._exit(0)
        for number in range(100):
            assert link.exchange(used, pack(("ECHO", str(number)))) == [b"%d" % number]
        assert select.select([reading], [], [], GRACE)[0]
        os.waitpid(child, 0)

        # THEN the child's are others, and the parent's have not been touched
        assert os.read(reading, 10) == b"good"
        assert link.exchange(used, pack(("CLIENT", "ID"))) == parents
        assert used.made == 1
    os.close(reading)
    os.close(writing)


def test_a_unix_socket(make_server: MakeServer, make_link: MakeLink) -> None:
    server = make_server()
    path = f"{server.folder}/redis.sock"
    server.configure(unixsocket=path)
    server.restart()
    link = make_link(f"redis+socket://{path}?virtual_host=3")
    value = random.randbytes(5_000_000)
    link.call("SET", "a", value)
    assert link.call("GET", "a") == value
    assert " db=3 " in link.call("CLIENT", "LIST").decode()
    server.restart(kill=True)
    assert link.call("GET", "a") is None
    assert link.address.place == f"unix://{path}"


# -- looking for an answer instead of sleeping -------------------------------------------------------------------------


@pytest.fixture(params=[Wire, StreamWire])
def ends(request: pytest.FixtureRequest) -> Iterator[tuple[Wire, socket.socket]]:
    """A wire of either kind, and what is at its other end."""
    ours, theirs = socket.socketpair()
    wire = request.param(ours)
    yield wire, theirs
    wire.close()
    theirs.close()


@pytest.mark.skipif(wire_module.processors() < 2, reason="capability: more than one processor")
def test_looking_is_given_up_where_answers_take_long_and_tried_again() -> None:
    # GIVEN a wire on which answers have come at once
    ours, theirs = socket.socketpair()
    wire = Wire(ours)
    for _ in range(MISSES * 2):
        theirs.sendall(b"+OK\r\n")
        assert wire.exchange(b"x", 1, time.monotonic() + GRACE, GRACE) == [b"OK"]
    assert wire.spins == SPINS

    # WHEN they come late, several times in a row
    for _ in range(MISSES):
        wire.look()
    assert wire.spins == 0

    # THEN it sleeps at once, looks again after a while, and goes on so if that was worth it
    for _ in range(REST):
        assert wire.spins == 0
        wire.look()
    theirs.sendall(b"+OK\r\n")
    assert wire.exchange(b"x", 1, time.monotonic() + GRACE, GRACE) == [b"OK"]
    assert wire.spins == SPINS
    wire.close()
    theirs.close()


def test_nobody_looks_where_there_is_one_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
    ours, theirs = socket.socketpair()
    wire = Wire(ours)
    assert wire.spins == 0
    for _ in range(REST * 2):
        wire.look()
    assert wire.spins == 0
    wire.close()
    theirs.close()


def test_more_answers_than_were_asked_for_end_the_connection(ends: tuple[Wire, socket.socket]) -> None:
    wire, theirs = ends
    theirs.sendall(b"+OK\r\n+OK\r\n")
    with pytest.raises(ConnectionError, match="more than it was asked for"):
        wire.exchange(b"x", 1, time.monotonic() + GRACE, GRACE)
    assert not wire.whole


def test_an_answer_in_pieces_and_a_request_in_pieces(ends: tuple[Wire, socket.socket]) -> None:
    # GIVEN a request that does not fit into the socket, and an answer that comes byte by byte
    wire, theirs = ends
    request = random.randbytes(3_000_000)
    with ThreadPoolExecutor(1) as pool:

        def answer() -> bytes:
            seen = b""
            while len(seen) < len(request):
                seen += theirs.recv(CHUNK)
            for byte in b"*2\r\n$3\r\nabc\r\n:7\r\n":
                theirs.sendall(bytes([byte]))
            return seen

        seen = pool.submit(answer)
        assert wire.exchange(request, 1, time.monotonic() + GRACE, GRACE) == [[b"abc", 7]]
        assert seen.result(GRACE) == request


def test_what_arrives_by_itself(ends: tuple[Wire, socket.socket]) -> None:
    wire, theirs = ends
    assert wire.arrived() == []
    with pytest.raises(TimeoutError):
        wire.wait(time.monotonic() + 0.05, GRACE)
    theirs.sendall(b"+one\r\n+two\r\n+thr")
    wire.wait(time.monotonic() + GRACE, GRACE)
    assert wire.arrived() == [b"one", b"two"]
    theirs.sendall(b"ee\r\n")
    wire.wait(time.monotonic() + GRACE, GRACE)
    assert wire.arrived() == [b"three"]
    theirs.close()
    with pytest.raises(ConnectionResetError, match="the server closed the connection"):
        wire.arrived()


def test_an_answer_that_came_while_this_process_stood_still_is_read(
    ends: tuple[Wire, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    # GIVEN a process that is stopped between its request and the answer, for longer than it would wait
    wire, theirs = ends
    now = [0.0]
    monkeypatch.setattr(wire_module, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def stand_still() -> None:
        theirs.sendall(b"+OK\r\n")
        now[0] += 100.0

    monkeypatch.setattr(wire, "look", stand_still)

    # THEN it has its answer, and no server is said to be silent
    assert wire.exchange(b"x", 1, GRACE, GRACE) == [b"OK"]
    with pytest.raises(TimeoutError):
        wire.wait(GRACE, GRACE)


def test_the_last_words_of_a_server_say_why(ends: tuple[Wire, socket.socket]) -> None:
    wire, theirs = ends
    theirs.sendall(b"+OK\r\n-ERR max number of clients reached\r\n")
    theirs.shutdown(socket.SHUT_WR)
    with pytest.raises(ConnectionError, match=r"^ERR max number of clients reached$"):
        wire.exchange(b"x", 3, time.monotonic() + GRACE, GRACE)


def test_arguments_are_bytes_text_and_numbers(redis_url: str, make_link: MakeLink) -> None:
    link = make_link(redis_url)
    for given, found in [
        (b"\xff\0", b"\xff\0"),
        ("é", "é".encode()),
        (7, b"7"),
        (1.5, b"1.5"),
        (memoryview(b"v"), b"v"),
    ]:
        assert link.call("ECHO", given) == found
    with pytest.raises(TypeError):
        link.call("ECHO", None)  # type: ignore[arg-type]


def test_a_lane_that_is_not_connected_says_so(redis_url: str, make_link: MakeLink) -> None:
    with pytest.raises(ConnectionError, match="not connected"):
        Lane(make_link(redis_url)).exchange(pack(("PING",)), 1, time.monotonic() + 1)
