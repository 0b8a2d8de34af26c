"""From URLs and options to where a Redis server is: what is understood, what is refused, and what names one place."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest

from celery import Celery, drivers
from celery.exceptions import ImproperlyConfigured
from celery.redis.address import SCHEMES, Address, Spot


def address(url: Any, **options: Any) -> Address:
    return Address(url, options)


@pytest.mark.parametrize(
    ("url", "spot", "db"),
    [
        ("redis://", Spot("localhost", 6379), 0),
        ("redis", Spot("localhost", 6379), 0),
        ("redis://h:7000/3", Spot("h", 7000), 3),
        ("redis://h:7000//3", Spot("h", 7000), 3),
        ("redis://h/?db=4", Spot("h", 6379), 4),
        ("redis://h?virtual_host=5", Spot("h", 6379), 5),
        ("redis://[::1]:7000/1", Spot("::1", 7000), 1),
        ("rediss://h:6380/2", Spot("h", 6380), 2),
        ("unix:///run/r.sock?db=2", Spot(path="/run/r.sock"), 2),
        ("socket:///run/r.sock?virtual_host=3", Spot(path="/run/r.sock"), 3),
        ("redis+socket:///run/r@1.sock?virtual_host=/3", Spot(path="/run/r@1.sock"), 3),
        ("redis+socket://%2Frun%2Fr.sock", Spot(path="/run/r.sock"), 0),
        ("sentinel://h/3", Spot("h", 26379), 3),
    ],
)
def test_urls(url: str, spot: Spot, db: int) -> None:
    # GIVEN a URL in one of the spellings of kombu, Celery and redis-py
    found = address(url, master_name="m")

    # THEN it is understood
    assert found.spots == (spot,)
    assert found.db == db


def test_what_the_url_does_not_say_is_in_the_options() -> None:
    found = address("redis", host="h", port=7000, virtual_host="2", username="ann", password="pw")
    assert found.spots == (Spot("h", 7000),)
    assert found.db == 2
    assert found._access.credentials() == ("ann", "pw")
    assert address("redis://bob:x@i:1/3", host="h", port=7000, virtual_host="2", username="ann").name == (
        "redis://bob@i:1"
    )


@pytest.mark.parametrize(
    ("url", "credentials"),
    [
        ("redis://h", ()),
        ("redis://:secret@h", ("secret",)),
        ("redis://ann:secret@h", ("ann", "secret")),
        ("redis://ann@h", ("ann", "")),
        ("redis://a%40n:p%2F%23%3A%3F@h", ("a@n", "p/#:?")),
        ("unix://ann:secret@/run/r.sock", ("ann", "secret")),
    ],
)
def test_users_and_passwords(url: str, credentials: tuple[str, ...]) -> None:
    assert address(url)._access.credentials() == credentials


def test_options_of_the_url_win_over_those_beside_it() -> None:
    found = address("redis://h?socket_timeout=1.5&timeout=3", socket_timeout=9, timeout=10)
    assert (found.patience, found.timeout) == (1.5, 3.0)


def test_the_timeout_of_celerys_retry_policy() -> None:
    assert address("redis://h", retry_policy={"timeout": 7.0}).timeout == 7.0


def test_the_prefix() -> None:
    assert address("redis://h", global_keyprefix="app:").prefix == "app:"
    assert address("redis://h?global_keyprefix=app%3A").prefix == "app:"
    assert address("redis://h").prefix == ""


@pytest.mark.parametrize(
    "urls", [["redis://a", "redis://b:1"], "redis://a;redis://b:1", "redis://a ; redis://b:1;", "redis://a;b:1"]
)
def test_several_urls(urls: Any) -> None:
    assert address(urls).spots == (Spot("a", 6379), Spot("b", 1))


def test_the_user_and_database_of_sentinels_stand_in_any_of_their_urls() -> None:
    found = address("sentinel://ann:pw@a:1/2;sentinel://b", master_name="m")
    assert found._access.credentials() == ("ann", "pw")
    assert found.db == 2
    assert found.name == "sentinel://ann@a:1,b:26379/m"


class Provider:
    def get_credentials(self) -> tuple[str, str]:
        return "ann", "token"


class Failing:
    def get_credentials(self) -> tuple[str, str]:
        raise RuntimeError("no token today")


@pytest.mark.parametrize("given", [Provider, Provider(), f"{__name__}.Provider", f"{__name__}:Provider"])
def test_credential_providers(given: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # GIVEN a credential provider: a class, an object, or the path of a class
    monkeypatch.setitem(__import__("sys").modules, __name__, __import__("types").SimpleNamespace(Provider=Provider))

    # THEN it says who logs in
    assert address("redis://h", credential_provider=given)._access.credentials() == ("ann", "token")


def test_a_failing_credential_provider_is_an_error_of_the_connection() -> None:
    with pytest.raises(ConnectionError, match="credential provider <Failing> fails: RuntimeError"):
        address("redis://h", credential_provider=Failing)._access.credentials()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("redis://localhost", "redis://127.0.0.1:6379/5"),
        ("redis://HOST.example.:7000/1", "redis://host.example:7000/2"),
        ("redis://:secret@h", "redis://default:other@h"),
        ("redis://ann:a@h", "redis://ann:b@h/1"),
        ("redis://[::1]", "redis://[0:0:0:0:0:0:0:1]:6379/1"),
        ("unix:///run/../run/r.sock", "redis+socket:///run/r.sock?virtual_host=1"),
        ("sentinel://a/1;sentinel://b:1", "sentinel://B:1;sentinel://a:26379/2"),
    ],
)
def test_one_place(one: str, other: str) -> None:
    assert address(one, master_name="m").place == address(other, master_name="m").place


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("redis://a", "redis://b"),
        ("redis://a", "redis://a:6380"),
        ("redis://ann:x@a", "redis://bob:x@a"),
        ("redis://a", "rediss://a"),
        ("redis://a;redis://b", "redis://a;redis://b"),  # each may be at another of them
        ("sentinel://a", "redis://a:26379"),
    ],
)
def test_different_places(one: str, other: str) -> None:
    assert address(one, master_name="m").place != address(other, master_name="m").place


def test_primaries_of_different_names_are_different_places() -> None:
    assert address("sentinel://a", master_name="m").place != address("sentinel://a", master_name="n").place


def test_two_objects_of_one_provider_class_may_be_two_users() -> None:
    one, other = Provider(), Provider()
    assert address("redis://a", credential_provider=one).place == address("redis://a", credential_provider=one).place
    assert address("redis://a", credential_provider=one).place != address("redis://a", credential_provider=other).place


def test_a_socket_by_its_link_is_the_same_place(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "r.sock")
    assert address(f"unix://{tmp_path}/link").place == address(f"unix://{tmp_path}/r.sock").place


BAD: list[tuple[Any, dict[str, Any], str]] = [
    ("", {}, "The Redis URL is empty: give redis://host:port/db."),
    ("http://h", {}, "no Redis URL with the scheme 'http'; known are redis, "),
    ("redis://h/queue", {}, "The database in a Redis URL is 'queue': give a number, as in redis://host:6379/0."),
    ("redis://h/-1", {}, "The database in a Redis URL is '-1': give a number"),
    ("redis://h", {"virtual_host": "jobs"}, "The Redis option db is 'jobs': give a number."),
    ("redis://h:0x1/0", {}, "The port in a Redis URL is no number up to 65535"),
    ("redis://h:99999", {}, "The port in a Redis URL is no number up to 65535"),
    ("redis://h?socket_timout=1", {}, "no option 'socket_timout' of Redis URLs; did you mean socket_timeout?"),
    ("redis://h?socket_timeout=soon", {}, "The Redis option socket_timeout is 'soon': give a number, 0 or more."),
    ("redis://h?socket_keepalive=perhaps", {}, "The Redis option socket_keepalive is 'perhaps': give true or false."),
    ("redis://h", {"max_connections": -1}, "The Redis option max_connections is -1: give a number, 0 or more."),
    ("redis://h", {"client_name": "two words"}, "The Redis option client_name is 'two words'"),
    ("redis://h", {"credential_provider": "no.such.Thing"}, "The credential provider 'no.such.Thing' cannot be loaded"),
    ("redis://h", {"credential_provider": object()}, "The credential provider object has no get_credentials()."),
    ("redis://h", {"failover_strategy": "nearest"}, "The failover strategy 'nearest' is unknown"),
    ("redis://h", {"socket_keepalive_options": 60}, "socket_keepalive_options is to be a dictionary"),
    ("redis://h?ssl_cert_reqs=none", {}, "has ssl_cert_reqs but not the scheme of TLS: write rediss:// instead of"),
    ("rediss://h?ssl_cert_reqs=maybe", {}, "ssl_cert_reqs is 'maybe': give required, optional or none."),
    ("rediss://h", {"ssl": {"ssl_cafile": "x"}}, "There is no Redis option ssl_cafile; known are ssl_ca_certs, "),
    ("rediss://h?ssl_validate_ocsp=true", {}, "ssl_validate_ocsp is not supported"),
    ("unix:///run/r.sock", {"ssl": True}, "A connection over a Unix socket has no TLS"),
    ("unix://r.sock", {}, "The URL of a Redis socket has its whole path: unix:///run/redis.sock."),
    ("sentinel://h", {}, "sentinel:// needs the name of the primary: broker_transport_options = {'master_name'"),
    ("sentinel://h", {"master_name": "m", "sentinel_kwargs": "pw"}, "sentinel_kwargs is to be a dictionary"),
    ("sentinel://a;redis://b", {"master_name": "m"}, "either all sentinel:// or none is"),
    ("redis://a/1;redis://b/2", {}, "The Redis URLs name different databases"),
]


@pytest.mark.parametrize(("url", "options", "words"), BAD)
def test_bad_values_are_refused_with_one_sentence(url: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ImproperlyConfigured) as caught:
        address(url, **options)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://:se/cret@h/0",
        "redis://:12/cret@h/0",
        "redis://:se#cret@h/0",
        "redis://:se?cret@h/0",
        "redis://ann:secret@h/x",
        "redis://ann:secret@h:port/0",
        "redis://ann:secret@h?nonsense=1",
    ],
)
def test_no_message_has_a_password_in_it(url: str) -> None:
    with pytest.raises(ImproperlyConfigured) as caught:
        address(url)
    assert "cret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_no_name_or_place_has_a_password_in_it() -> None:
    found = address("redis://ann:secret@h;redis://:secret@i")
    assert "secret" not in found.name + found.place + repr(found)
    assert found.name == "redis://ann@h:6379;redis://ann@i:6379"


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("required", "CERT_REQUIRED"),
        ("CERT_REQUIRED", "CERT_REQUIRED"),
        (ssl.CERT_REQUIRED, "CERT_REQUIRED"),
        (None, "CERT_REQUIRED"),
        ("optional", "CERT_OPTIONAL"),
        ("CERT_NONE", "CERT_NONE"),
        (ssl.CERT_NONE, "CERT_NONE"),
        (0, "CERT_NONE"),
    ],
)
@pytest.mark.parametrize("name", ["ssl_cert_reqs", "cert_reqs"])
def test_certificates_are_verified_unless_it_is_said_otherwise(name: str, given: Any, wanted: str) -> None:
    (tls,) = address("rediss://h", ssl={name: given})._tls
    assert tls is not None
    assert tls._require == wanted


def test_the_schemes_are_those_that_the_drivers_are_found_by() -> None:
    assert set(SCHEMES) == drivers.REDIS


@pytest.mark.parametrize(
    ("urls", "given"),
    [
        (["redis://a", "redis://b"], "redis://a;redis://b"),
        ("sentinel://a;sentinel://b", "sentinel://a;sentinel://b"),
        (["memory://a", "redis://b"], "memory://a"),
        ("sqlite:///a.db;sqlite:///b.db", "sqlite:///a.db"),
    ],
)
def test_drivers_that_fail_over_by_themselves_get_all_urls(urls: Any, given: str) -> None:
    assert drivers.address(urls) == given


# -- from the settings of an application -------------------------------------------------------------------------------


def test_the_settings_of_the_broker() -> None:
    app = Celery(
        "app",
        broker=["redis://a/1", "redis://b/1"],
        broker_user="ann",
        broker_password="pw",
        broker_pool_limit=3,
        broker_failover_strategy="shuffle",
        broker_connection_timeout=2,
        broker_publish_timeout=7,
        broker_transport_options={"global_keyprefix": "app:", "client_name": "mine"},
        set_as_current=False,
    )
    found = app.broker.link  # type: ignore[attr-defined]
    assert found.address.spots == (Spot("a", 6379), Spot("b", 6379))
    assert found.address._access.credentials() == ("ann", "pw")
    assert (found.address.db, found.prefix, found.limit, found.timeout) == (1, "app:", 3, 7.0)
    assert found.address._connect_timeout == 2.0
    assert found.address._client_name == "mine"


def test_the_option_for_connections_wins_over_the_limit_of_the_pool() -> None:
    options = {"max_connections": 20}
    app = Celery("app", broker="redis://a", broker_transport_options=options, set_as_current=False)
    assert app.broker.link.limit == 20  # type: ignore[attr-defined]
    assert Celery("app", broker="redis://a", set_as_current=False).broker.link.limit == 10  # type: ignore[attr-defined]


def test_tls_of_the_broker() -> None:
    ssl_options = {"ssl_cert_reqs": ssl.CERT_NONE}
    app = Celery("app", broker="rediss://a", broker_use_ssl=ssl_options, set_as_current=False)
    assert app.broker.link.address._tls[0]._require == "CERT_NONE"  # type: ignore[attr-defined]


def test_the_settings_of_redis_as_a_result_backend() -> None:
    app = Celery(
        "app",
        backend="redis",
        redis_host="h",
        redis_port=7000,
        redis_db=4,
        redis_username="ann",
        redis_password="pw",
        redis_max_connections=5,
        redis_socket_timeout=1.5,
        redis_socket_connect_timeout=2.5,
        redis_client_name="results",
        redis_backend_health_check_interval=3,
        redis_backend_use_ssl={"ssl_cert_reqs": "required"},
        result_backend_transport_options={"global_keyprefix": "app:", "retry_policy": {"timeout": 6.0}},
        set_as_current=False,
    )
    link = app.store.link  # type: ignore[union-attr]
    address = link.address
    assert address.spots == (Spot("h", 7000),)
    assert address._access.credentials() == ("ann", "pw")
    assert (address.db, link.limit, link.timeout, link.prefix.rstrip("_")) == (4, 5, 6.0, "app:")
    assert (address.patience, address._connect_timeout, address.health) == (1.5, 2.5, 3.0)
    assert address._client_name == "results"
    assert address._tls[0]._require == "CERT_REQUIRED"


def test_the_credential_provider_of_the_result_backend() -> None:
    app = Celery("app", backend="redis://h", redis_backend_credential_provider=Provider(), set_as_current=False)
    assert app.store.link.address._access.credentials() == ("ann", "token")  # type: ignore[union-attr]


def test_sentinels_for_results() -> None:
    urls = "sentinel://a:1;sentinel://b:2/3"
    app = Celery("app", backend=urls, result_backend_transport_options={"master_name": "m"}, set_as_current=False)
    address = app.store.link.address  # type: ignore[union-attr]
    assert (address.name, address.db) == ("sentinel://a:1,b:2/m", 3)
