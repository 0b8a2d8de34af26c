"""Settings: reading, writing, where values come from, and what is said when something is wrong."""

from __future__ import annotations

import pickle
from datetime import timedelta
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from celery.app.settings import Settings, detect_settings
from celery.exceptions import CDeprecationWarning, ImproperlyConfigured


def module(**variables: Any) -> ModuleType:
    made = ModuleType("celeryconfig")
    vars(made).update(variables)
    return made


@pytest.fixture
def conf() -> Settings:
    return detect_settings({})


class TestReading:
    def test_by_attribute_by_item_and_by_old_name(self) -> None:
        conf = detect_settings({"task_acks_late": True})

        assert conf.task_acks_late is True
        assert conf["task_acks_late"] is True
        assert conf.get("task_acks_late") is True
        assert conf.CELERY_ACKS_LATE is True
        assert conf["CELERY_ACKS_LATE"] is True
        assert "task_acks_late" in conf
        assert "CELERY_ACKS_LATE" in conf

    def test_a_default(self, conf: Settings) -> None:
        assert conf.result_expires == timedelta(days=1)
        assert conf.BROKER_POOL_LIMIT == 10
        assert "task_time_limit" in conf

    def test_what_is_missing(self, conf: Settings) -> None:
        assert conf.get("NOPE") is None
        assert conf.get("NOPE", 3) == 3
        assert "NOPE" not in conf
        assert not hasattr(conf, "NOPE")
        with pytest.raises(KeyError, match="NOPE"):
            conf["NOPE"]
        with pytest.raises(AttributeError, match="did you mean 'task_acks_late'"):
            _ = conf.task_ack_late

    def test_a_value_by_a_part_of_its_name(self, conf: Settings) -> None:
        assert conf.find_value_for_key("always_eager") is False
        assert conf.find_value_for_key("extended", "result") is False
        assert conf.find_value_for_key("url", "database") is None
        assert conf.get_by_parts("task", "always_eager") is False
        assert conf.get_by_parts(None, "task_serializer") == "json"
        assert conf.find_option("always_eager")[:2] == ("task", "always_eager")
        with pytest.raises(KeyError):
            conf.find_value_for_key("no_such_thing")

    def test_first(self, conf: Settings) -> None:
        assert conf.first("NOPE", "task_time_limit", "task_serializer") == "json"
        assert conf.first("NOPE") is None

    def test_whether_a_value_was_set(self) -> None:
        conf = detect_settings({"task_acks_late": False})
        conf.task_ignore_result = True

        assert conf.value_set_for("task_acks_late")
        assert conf.value_set_for("CELERY_ACKS_LATE")
        assert conf.value_set_for("task_ignore_result")
        assert not conf.value_set_for("task_always_eager")

    def test_queue_names_follow_the_default_queue(self, conf: Settings) -> None:
        conf.task_default_queue = "mail"
        assert (conf.task_default_exchange, conf.task_default_routing_key) == ("mail", "mail")

        conf.task_default_exchange = "post"
        assert (conf.task_default_exchange, conf.task_default_routing_key) == ("post", "mail")

    def test_it_is_a_mapping(self, conf: Settings) -> None:
        assert dict(conf)["task_serializer"] == "json"
        assert set(conf) == set(conf.keys()) == set(conf.iterkeys())
        assert len(conf) == len(list(conf.itervalues())) == len(list(conf.iteritems()))
        assert conf.prefix == ""


class TestWriting:
    def test_a_change_wins_and_can_be_taken_back(self) -> None:
        conf = detect_settings({"task_serializer": "yaml"})

        conf.task_serializer = "pickle"
        assert conf.task_serializer == "pickle"
        assert conf.changes == {"task_serializer": "pickle"}

        del conf["task_serializer"]
        assert conf.task_serializer == "yaml"
        with pytest.raises(KeyError, match="was not changed"):
            del conf["task_serializer"]
        with pytest.raises(AttributeError, match="was not changed"):
            del conf.task_serializer

    def test_old_names_write_what_new_names_read(self, conf: Settings) -> None:
        conf.CELERY_ACKS_LATE = True
        conf["CELERYD_CONCURRENCY"] = 3
        conf.update(BROKER_URL="memory://")

        assert (conf.task_acks_late, conf.worker_concurrency, conf.broker_url) == (True, 3, "memory://")

    def test_update_is_all_or_nothing(self, conf: Settings) -> None:
        with pytest.raises(ImproperlyConfigured):
            conf.update({"task_acks_late": True, "task_time_limit": "long"})

        assert conf.changes == {}

    def test_pop_setdefault_popitem_and_clear(self, conf: Settings) -> None:
        conf.update(FIRST=1, SECOND=2)

        assert conf.setdefault("FIRST", 9) == 1
        assert conf.setdefault("THIRD", 3) == 3
        assert conf.pop("FIRST") == 1
        assert conf.pop("FIRST", None) is None
        assert conf.popitem() == ("THIRD", 3)
        with pytest.raises(KeyError):
            conf.pop("FIRST")
        conf.clear()
        assert conf.changes == {}
        assert "SECOND" not in conf
        assert conf.task_serializer == "json"

    def test_a_whole_configuration_of_a_framework(self, conf: Settings) -> None:
        conf.update(
            {"SECRET_KEY": "x", "SQLALCHEMY_DATABASE_URI": "sqlite://", "DEBUG": True, "PERMANENT": timedelta(1)}
        )

        assert conf.SECRET_KEY == "x"
        assert conf["DEBUG"] is True

    def test_a_default_that_is_changed_in_place_stays_with_its_app(self) -> None:
        one, other = detect_settings({}), detect_settings({})

        one.beat_schedule["tick"] = {"task": "t"}

        assert other.beat_schedule == {}
        assert one.beat_schedule == one.copy().beat_schedule == {"tick": {"task": "t"}}

    def test_observers_hear_of_changes_by_new_names(self, conf: Settings) -> None:
        heard: list[dict[str, Any]] = []
        conf.bind_to(heard.append)

        conf.CELERY_ROUTES = {"a": "b"}
        conf.update(task_acks_late="yes")
        conf.pop("task_acks_late")

        assert heard == [{"task_routes": {"a": "b"}}, {"task_acks_late": True}, {"task_acks_late": False}]

    def test_swap(self, conf: Settings) -> None:
        conf.swap_with(detect_settings({"task_serializer": "yaml"}))

        assert conf.task_serializer == "yaml"


class TestDefaults:
    def test_they_lie_under_the_configuration_and_over_the_table(self) -> None:
        conf = detect_settings({"task_acks_late": False})

        conf.add_defaults({"task_acks_late": True, "task_serializer": "yaml"})
        conf.add_defaults({"task_serializer": "msgpack"})

        assert conf.task_acks_late is False
        assert conf.task_serializer == "msgpack"

    def test_they_make_names_known(self, conf: Settings) -> None:
        conf.add_defaults({"shop_limit": 3})
        assert conf.shop_limit == 3

        conf.shop_limit = 4
        assert conf["shop_limit"] == 4

    def test_an_object_can_hold_them(self, conf: Settings) -> None:
        conf.add_defaults(module(task_serializer="yaml", helper=len))

        assert conf.task_serializer == "yaml"
        assert "helper" not in conf

    def test_those_known_before_the_configuration_is_read(self) -> None:
        conf = detect_settings({}, {"shop_limit": 4}, defaults=[{"shop_limit": 3}])

        assert conf.shop_limit == 4


class TestUnknownNames:
    @pytest.mark.parametrize(
        ("name", "meant"),
        [
            ("task_ack_late", "task_acks_late"),
            ("worker_prefetch_multiplyer", "worker_prefetch_multiplier"),
            ("broker", "broker_url"),
            ("result_expire", "result_expires"),
        ],
    )
    def test_the_nearest_is_suggested(self, conf: Settings, name: str, meant: str) -> None:
        message = f"There is no setting '{name}'; did you mean '{meant}'?"
        with pytest.raises(ImproperlyConfigured) as by_update:
            conf.update({name: 1})
        with pytest.raises(ImproperlyConfigured) as by_attribute:
            setattr(conf, name, 1)
        with pytest.raises(ImproperlyConfigured) as by_item:
            conf[name] = 1
        with pytest.raises(ImproperlyConfigured) as by_configuration:
            detect_settings({name: 1})
        for raised in (by_update, by_attribute, by_item, by_configuration):
            assert str(raised.value) == message

    def test_without_a_near_one_the_way_out_is_said(self, conf: Settings) -> None:
        with pytest.raises(ImproperlyConfigured, match=r"'zzz': give settings of your own upper-case names"):
            conf.zzz = 1

    def test_packages_keep_theirs(self, conf: Settings) -> None:
        conf.update(redbeat_redis_url="redis://", singleton_lock_expiry=3)
        conf.worker_logfile = "x.log"

        assert conf.get("redbeat_redis_url") == "redis://"
        assert conf.get("singleton_backend_url") is None

    def test_a_prefix_can_be_registered(self, conf: Settings) -> None:
        with pytest.raises(ImproperlyConfigured):
            conf.shopqueue_size = 1

        Settings.register_prefix("shopqueue_", reason="a test")
        conf.shopqueue_size = 1

        assert conf.shopqueue_size == 1
        with pytest.raises(ValueError, match="lower-case text"):
            Settings.register_prefix("Shop_")

    @pytest.mark.parametrize("kind", ["module", "class", "object"])
    def test_helpers_beside_settings_are_no_mistake(self, kind: str) -> None:
        variables = {
            "task_serializer": "yaml",
            "broker": "redis.example",
            "default_queue": "x",
            "result_backend_url": "redis://",
            "worker_autoscale_step": 10,
            "redis_url": "redis://",
            "hostname": "h",
            "task_route": len,
            "_private": 1,
            "timedelta": timedelta,
        }
        source: Any = {
            "module": lambda: module(**variables),
            "class": lambda: type("Config", (), variables),
            "object": lambda: SimpleNamespace(**variables),
        }[kind]()

        conf = detect_settings(source)

        assert conf.task_serializer == "yaml"
        assert conf.table() == {"task_serializer": "yaml"}
        assert conf.hostname == "h"

    def test_a_slip_in_a_module_is_one(self) -> None:
        with pytest.raises(ImproperlyConfigured, match="did you mean 'task_acks_late'"):
            detect_settings(module(task_ack_late=True))


class TestOldNames:
    def test_all_old(self) -> None:
        conf = detect_settings({"CELERYD_CONCURRENCY": 2, "CELERY_ACKS_LATE": True, "OTHER": 1})

        assert (conf.worker_concurrency, conf.task_acks_late, conf.OTHER) == (2, True, 1)
        assert conf.deprecated_settings == {"CELERYD_CONCURRENCY", "CELERY_ACKS_LATE"}

    def test_they_are_warned_of_on_request(self) -> None:
        conf = detect_settings({"CELERYD_CONCURRENCY": 2})

        with pytest.warns(CDeprecationWarning, match="'CELERYD_CONCURRENCY' has an old name: call it 'worker_concur"):
            assert conf.maybe_warn_deprecated_settings()
        assert not detect_settings({"worker_concurrency": 2}).maybe_warn_deprecated_settings()

    @pytest.mark.parametrize(
        ("given", "renamed", "advice"),
        [
            (
                ["task_always_eager", "task_acks_late", "CELERYD_CONCURRENCY"],
                "CELERYD_CONCURRENCY",
                "worker_concurrency",
            ),
            (
                ["CELERYD_CONCURRENCY", "CELERY_ACKS_LATE", "task_always_eager"],
                "task_always_eager",
                "CELERY_ALWAYS_EAGER",
            ),
            (["BROKER_URL", "task_acks_late"], "BROKER_URL", "broker_url"),
            (["CELERYD_CONCURRENCY", "BROKER_URL", "worker_lease"], "worker_lease", "(has no old name)"),
        ],
    )
    def test_mixed_with_new_ones(self, given: list[str], renamed: str, advice: str) -> None:
        with pytest.raises(ImproperlyConfigured) as raised:
            detect_settings(dict.fromkeys(given))

        assert f"{renamed:<36} -> {advice}" in str(raised.value)

    def test_what_the_constructor_was_given_may_stand_beside_them(self) -> None:
        conf = detect_settings({"CELERYD_CONCURRENCY": 3}, {"broker_url": "memory://"}, ignore_keys={"broker_url"})

        assert (conf.worker_concurrency, conf.broker_url) == (3, "memory://")


class TestNamespace:
    DJANGO = SimpleNamespace(
        CELERY_TASK_ACKS_LATE=True,
        CELERY_BROKER_URL="memory://",
        CELERY_SINGLETON_LOCK_EXPIRY=3,
        CELERY_REDIS_URL="redis://",
        CELERY_ACKS_LATE=3,
        SECRET_KEY="f",
        TIME_ZONE="Europe/Berlin",
        task_serializer="yaml",
    )

    @pytest.mark.parametrize("namespace", ["CELERY", "CELERY_"])
    def test_only_its_names_are_settings(self, namespace: str) -> None:
        conf = detect_settings(self.DJANGO, prefix=namespace)

        assert conf.task_acks_late is True
        assert conf.CELERY_TASK_ACKS_LATE is True
        assert conf.broker_url == conf["BROKER_URL"] == "memory://"
        assert conf.get("singleton_lock_expiry") == 3
        assert conf.task_serializer == "json"
        assert conf.prefix == "CELERY_"

    def test_the_rest_can_be_read(self) -> None:
        conf = detect_settings(self.DJANGO, prefix="CELERY")

        assert conf.SECRET_KEY == "f"
        assert conf.CELERY_REDIS_URL == "redis://"
        assert conf.timezone == "Europe/Berlin"
        assert "SECRET_KEY" not in conf.table()

    def test_old_names_in_it_are_not_used_but_reported(self) -> None:
        conf = detect_settings(self.DJANGO, prefix="CELERY")

        with pytest.warns(CDeprecationWarning, match="call it 'CELERY_TASK_ACKS_LATE'"):
            conf.maybe_warn_deprecated_settings()

    def test_a_slip_is_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        conf = detect_settings({"CELERY_TASK_ACK_LATE": True}, prefix="CELERY")

        assert conf.task_acks_late is False
        assert "no setting 'CELERY_TASK_ACK_LATE'; did you mean 'CELERY_TASK_ACKS_LATE'?" in caplog.text


class TestTypes:
    @pytest.mark.parametrize(
        ("name", "given", "kept"),
        [
            ("task_acks_late", "yes", True),
            ("task_acks_late", "0", False),
            ("task_acks_late", 1, True),
            ("worker_prefetch_multiplier", "16", 16),
            ("broker_heartbeat", 2.5, 2.5),
            ("task_time_limit", "2.5", 2.5),
            ("result_expires", timedelta(hours=1), timedelta(hours=1)),
            ("imports", "a, b", ("a", "b")),
            ("imports", ["a"], ["a"]),
            ("accept_content", {"json"}, {"json"}),
            ("broker_url", ["memory://a", "memory://b"], ["memory://a", "memory://b"]),
            ("broker_use_ssl", {"ca_certs": "x"}, {"ca_certs": "x"}),
            ("redis_backend_use_ssl", True, True),
            ("task_queues", ["a"], ["a"]),
            ("worker_concurrency", "4", 4),
            ("worker_concurrency", "auto", "auto"),
            ("task_default_rate_limit", 10, 10),
            ("beat_scheduler", TestReading, TestReading),
            ("task_time_limit", None, None),
        ],
    )
    def test_what_fits_is_kept_or_converted(self, conf: Settings, name: str, given: Any, kept: Any) -> None:
        conf[name] = given

        assert conf[name] == kept
        assert type(conf[name]) is type(kept)

    @pytest.mark.parametrize(
        ("name", "given", "reason"),
        [
            ("task_acks_late", "maybe", "it has to be true or false, and 'maybe' is text"),
            ("task_acks_late", [], "it has to be true or false, and [] is a list"),
            ("worker_prefetch_multiplier", "many", "it has to be a whole number, and 'many' is text"),
            ("worker_prefetch_multiplier", 1.5, "it has to be a whole number, and 1.5 is a float"),
            ("task_time_limit", {}, "it has to be a number, and {} is a dict"),
            ("broker_transport_options", "x", "it has to be a dict, and 'x' is text"),
            ("task_queues", 3, "it has to be a dict or a list, and 3 is an int"),
            ("task_serializer", ["json"], "it has to be text, and ['json'] is a list"),
            ("imports", 3, "it has to be a list, and 3 is an int"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, conf: Settings, name: str, given: Any, reason: str) -> None:
        with pytest.raises(ImproperlyConfigured) as raised:
            conf[name] = given

        assert str(raised.value) == f"The setting '{name}' is wrong: {reason}."

    def test_a_lazy_value_of_a_framework_is_left_alone(self, conf: Settings) -> None:
        lazy = SimpleNamespace()
        conf.task_time_limit = lazy

        assert conf.task_time_limit is lazy


class TestEnvironment:
    def test_it_wins(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CELERY_BROKER_URL", "memory://env")
        monkeypatch.setenv("CELERY_RESULT_BACKEND", "cache+memory://")

        conf = detect_settings({"broker_url": "memory://conf", "broker_read_url": "memory://read"})
        conf.result_backend = "rpc://"

        assert conf.broker_url == conf["broker_url"] == conf.broker_write_url == "memory://env"
        assert conf.broker_read_url == "memory://read"
        assert conf.result_backend == "cache+memory://"

    def test_read_and_write_urls(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CELERY_BROKER_READ_URL", "memory://in")
        monkeypatch.setenv("CELERY_BROKER_WRITE_URL", "memory://out")

        conf = detect_settings({"broker_url": "memory://"})

        assert (conf.broker_read_url, conf.broker_write_url) == ("memory://in", "memory://out")

    def test_it_is_read_again_on_request(self, conf: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CELERY_BROKER_URL", "memory://late")
        conf.finalize()

        assert conf.broker_url == "memory://late"

    def test_read_and_write_follow_the_broker_url(self, conf: Settings) -> None:
        conf.broker_url = "memory://x"

        assert (conf.broker_read_url, conf.broker_write_url) == ("memory://x", "memory://x")
        assert conf.table() == {"broker_url": "memory://x"}


class TestShown:
    def test_secrets_are_not(self) -> None:
        conf = detect_settings({
            "broker_url": "redis://user:pa@ss@host:6379/0;redis://u:p@b",
            "result_backend": "redis://:pw@host",
            "broker_password": "x",
            "security_key": "x",
            "AWS_SECRET": "x",
            "broker_transport_options": {"sentinel_kwargs": {"password": "x"}, "master_name": "m"},
            "broker_read_url": ["redis://u:p@a", "redis://b"],
            "task_default_routing_key": "visible",
            "database_url": "postgresql://u@h/d?password=x",
        })  # fmt: skip

        assert conf.table() == {
            "broker_url": "redis://user:********@host:6379/0;redis://u:********@b",
            "result_backend": "redis://:********@host",
            "broker_password": "********",
            "security_key": "********",
            "AWS_SECRET": "********",
            "broker_transport_options": {"sentinel_kwargs": {"password": "********"}, "master_name": "m"},
            "broker_read_url": ["redis://u:********@a", "redis://b"],
            "task_default_routing_key": "visible",
            "database_url": "postgresql://u@h/d?password=********",
        }
        assert "pa@ss" not in repr(conf)
        assert conf.table(censored=False)["broker_password"] == "x"

    def test_a_line_each(self) -> None:
        conf = detect_settings({"task_serializer": "yaml", "broker_url": "redis://:p@h"})

        assert conf.humanize().splitlines() == ["task_serializer: 'yaml'", "broker_url: 'redis://:********@h'"]
        assert "worker_concurrency: None" in conf.humanize(with_defaults=True)

    def test_without_defaults(self) -> None:
        conf = detect_settings({"task_serializer": "yaml"})
        conf.add_defaults({"shop_limit": 3})

        assert dict(conf.without_defaults()) == {"task_serializer": "yaml", "shop_limit": 3}


class TestCopies:
    def test_pickle(self) -> None:
        conf = detect_settings({"task_serializer": "yaml"}, {"task_acks_late": True}, prefix=None)
        conf.add_defaults({"shop_limit": 3})
        conf.beat_schedule["tick"] = {"task": "t"}

        restored = pickle.loads(pickle.dumps(conf))

        assert restored == conf
        assert restored.changes == {"task_acks_late": True}
        assert restored.beat_schedule == {"tick": {"task": "t"}}
        restored.shop_limit = 4
        assert conf.shop_limit == 3

    def test_copy(self) -> None:
        conf = detect_settings({"task_serializer": "yaml"})
        copied = conf.copy()
        copied.task_serializer = "json"

        assert conf.task_serializer == "yaml"
        assert copied.table() == {"task_serializer": "json"}

    def test_made_by_hand(self) -> None:
        conf = Settings({"task_acks_late": "on"}, [{"task_serializer": "yaml"}])

        assert dict(conf) == {"task_acks_late": True, "task_serializer": "yaml"}
        assert conf.maps == [conf.changes, *conf.defaults]
