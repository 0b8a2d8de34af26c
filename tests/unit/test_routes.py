"""Where tasks go: `task_routes`, and the annotations of tasks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from celery import Celery
from celery.app.annotations import MapAnnotation, resolve_all
from celery.app.annotations import prepare as prepare_annotations
from celery.app.routes import MapRoute, Router, expand_router_string, prepare
from celery.app.settings import detect_settings
from celery.exceptions import ImproperlyConfigured, QueueNotFound


class Names(dict[str, Any]):
    """Queues whose objects are known by their name."""

    def __missing__(self, name: str) -> str:
        return f"<{name}>"


def make_router(routes: Any, queues: Mapping[str, Any] | None = None, **settings: Any) -> Router:
    app = SimpleNamespace(conf=detect_settings(settings))
    return Router(prepare(routes), Names() if queues is None else queues, queues is None, app=app)


def route_to_urgent(name: str, args: Any, kwargs: Any, options: Any, task: Any = None, **kw: Any) -> Any:
    return {"queue": "urgent"} if kwargs.get("urgent") else None


class OldStyleRouter:
    def route_for_task(self, task: str, args: Any = None, kwargs: Any = None) -> str:
        return f"old_{task}"


class TestMapRoute:
    ROUTE = MapRoute({
        "a": {"queue": "exact"},
        "b.*": {"queue": "glob"},
        re.compile(r"c\.(x|y)"): {"queue": "regex"},
        "d": "text",
        "e.[12]": "range",
    })  # fmt: skip

    @pytest.mark.parametrize(
        ("name", "queue"), [("a", "exact"), ("b.x", "glob"), ("c.x", "regex"), ("d", "text"), ("e.1", "range")]
    )
    def test_match(self, name: str, queue: str) -> None:
        assert self.ROUTE(name) == {"queue": queue}

    @pytest.mark.parametrize("name", ["c.z", "bb", "zb.x", "e.3", ""])
    def test_no_match(self, name: str) -> None:
        assert self.ROUTE(name) is None

    def test_an_exact_name_wins_and_patterns_keep_their_order(self) -> None:
        route = MapRoute([("x.*", "first"), ("x.y*", "second"), ("x.y", "exact")])

        assert route("x.y") == {"queue": "exact"}
        assert route("x.yz") == {"queue": "first"}


class TestDestination:
    @pytest.mark.parametrize("routes", [None, {"other": "q"}, [], {"t": {}}, {"t": ""}, {"t": {"queue": None}}])
    def test_without_a_route_it_is_the_default_queue(self, routes: Any) -> None:
        router = make_router(routes, task_default_queue="main")

        assert router.route({}, "t") == {"queue": "<main>"}
        assert router.route({"queue": "mine"}, "t") == {"queue": "<mine>"}
        assert router.route({"queue": None}, "t") == {"queue": "<main>"}

    def test_a_route_without_queue_keeps_the_default_queue(self) -> None:
        assert make_router({"t": {"priority": 3}}).route({}, "t") == {"priority": 3, "queue": "<celery>"}

    def test_a_route_to_an_exchange_has_no_queue(self) -> None:
        router = make_router({"t": {"exchange": "ex", "routing_key": "k"}})

        assert router.route({}, "t") == {"exchange": "ex", "routing_key": "k"}

    def test_options_win_over_the_route(self) -> None:
        router = make_router({"t": {"queue": "q", "routing_key": "k", "priority": 3}})

        assert router.route({"queue": "mine", "priority": 9, "expires": None, "serializer": "yaml"}, "t") == {
            "queue": "<mine>",
            "routing_key": "k",
            "priority": 9,
            "serializer": "yaml",
        }

    def test_an_object_as_queue_is_kept(self) -> None:
        queue = SimpleNamespace(name="q")

        assert make_router({"t": {"queue": queue}}).route({}, "t")["queue"] is queue
        assert make_router(None).route({"queue": queue}, "t")["queue"] is queue

    def test_find_keeps_names(self) -> None:
        assert make_router({"t": "q"}).find({"priority": 1}, "t") == {"queue": "q", "priority": 1}

    def test_a_queue_that_is_missing(self) -> None:
        router = make_router({"t": "nope"}, queues={"celery": "<celery>"})

        assert router.route({}, "other") == {"queue": "<celery>"}
        with pytest.raises(QueueNotFound, match="no queue 'nope' in task_queues: add it, or turn task_create_missing"):
            router.route({}, "t")

    def test_the_result_is_the_callers(self) -> None:
        router = make_router({"t": {"queue": "q", "headers": {}}})
        router.find({}, "t")["queue"] = "changed"

        assert router.find({}, "t")["queue"] == "q"

    def test_a_new_default_queue_counts_at_once(self) -> None:
        router = make_router({"t": {"priority": 3}})
        router.find({}, "t")
        router.app.conf.task_default_queue = "new"

        assert router.find({}, "t")["queue"] == "new"


class TestRouters:
    def test_the_first_answer_wins(self) -> None:
        assert make_router([{"t": "one"}, {"t": "two"}]).lookup_route("t") == {"queue": "one"}
        assert make_router([route_to_urgent, {"t": "two"}]).find({}, "t") == {"queue": "two"}

    def test_a_callable_is_asked_every_time_with_all_it_may_need(self) -> None:
        asked: list[Any] = []

        def route(name: str, args: Any, kwargs: Any, options: Any, task: Any = None, **kw: Any) -> str:
            asked.append((name, args, kwargs, options, task))
            return f"q{len(asked)}"

        router = make_router(route)

        assert router.find({"priority": 3}, "t", (1,), {"k": 2}, "type") == {"queue": "q1", "priority": 3}
        assert router.find({}, "t") == {"queue": "q2"}
        assert asked == [("t", (1,), {"k": 2}, {"priority": 3}, "type"), ("t", (), {}, {}, None)]

    @pytest.mark.parametrize("routes", [route_to_urgent, f"{__name__}:route_to_urgent", f"{__name__}.route_to_urgent"])
    def test_a_callable_or_the_path_to_one(self, routes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        import sys

        monkeypatch.setitem(sys.modules, __name__, SimpleNamespace(route_to_urgent=route_to_urgent))

        assert make_router(routes).find({}, "t", (), {"urgent": True}) == {"queue": "urgent"}
        assert make_router(routes).find({}, "t") == {"queue": "celery"}

    def test_a_path_is_imported_when_it_is_needed(self) -> None:
        router = make_router("no_such_module:route")

        with pytest.raises(ModuleNotFoundError):
            router.find({}, "t")

    def test_an_object_with_route_for_task(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import sys

        monkeypatch.setitem(sys.modules, "old_router", SimpleNamespace(OldStyleRouter=OldStyleRouter))

        assert make_router(OldStyleRouter()).find({}, "t") == {"queue": "old_t"}
        assert make_router("old_router:OldStyleRouter").find({}, "t") == {"queue": "old_t"}
        assert isinstance(expand_router_string("old_router:OldStyleRouter"), OldStyleRouter)

    def test_lists_of_pairs_in_a_list(self) -> None:
        router = make_router(([("a.*", {"queue": "x"}), ("b.*", "y")],))

        assert router.find({}, "a.1") == {"queue": "x"}
        assert router.find({}, "b.1") == {"queue": "y"}

    @pytest.mark.parametrize(
        ("routes", "message"),
        [
            ([("a.*", {"queue": "x"})], "in a list of routes each one is a pair"),
            (3, "task_routes has 3: give a dict, a function"),
            ({3: "q"}, "in a list of routes each one is a pair"),
        ],
    )
    def test_what_is_no_route(self, routes: Any, message: str) -> None:
        with pytest.raises(ImproperlyConfigured, match=message):
            prepare(routes)

    def test_what_is_no_destination(self) -> None:
        with pytest.raises(ImproperlyConfigured, match=r"A route in task_routes is 3: give the name of a queue"):
            make_router({"t": 3}).find({}, "t")


class TestAnnotations:
    def test_first_for_the_task_then_for_all(self) -> None:
        annotations = prepare_annotations([{"t": {"x": 1}}, {"t": {"x": 2}, "*": {"y": 1}}, {"*": {"y": 2}}])

        assert list(resolve_all(annotations, SimpleNamespace(name="t"))) == [{"x": 1}, {"y": 1}]
        assert list(resolve_all(annotations, SimpleNamespace(name="other"))) == [{"y": 1}]

    def test_objects(self) -> None:
        class OnlyMail:
            def annotate(self, task: Any) -> dict[str, Any] | None:
                return {"rate_limit": "1/s"} if task.name.startswith("mail.") else None

        annotations = prepare_annotations(OnlyMail())

        assert list(resolve_all(annotations, SimpleNamespace(name="mail.send"))) == [{"rate_limit": "1/s"}]
        assert list(resolve_all(annotations, SimpleNamespace(name="other"))) == []

    def test_the_path_to_one(self) -> None:
        assert prepare_annotations("celery.app.annotations:MapAnnotation") == [MapAnnotation()]
        assert prepare_annotations(None) == []

    def test_what_is_returned_is_a_copy(self) -> None:
        annotation = MapAnnotation({"*": {"a": 1}})
        found = annotation.annotate_any()
        assert found is not None
        found["a"] = 2

        assert annotation.annotate_any() == {"a": 1}
        assert annotation.annotate(SimpleNamespace(name="t")) is None


def test_options_of_queues_that_are_given_as_a_dictionary() -> None:
    """As original Celery reads them, which is not always what one would guess."""
    app = Celery("queues", set_as_current=False)
    app.conf.task_queues = {
        "plain": {"exchange": "shop"},
        "bound": {"exchange": "shop", "routing_key": "r", "binding_key": "b"},
        "typed": {"exchange_type": "topic"},
        "news": {"exchange": "news", "exchange_type": "fanout", "auto_delete": True},
        "apart": {"exchange": "e", "exchange_durable": False, "queue_auto_delete": True},
        "limited": {"message_ttl": 4, "max_length": 3, "expires": 60.5, "queue_arguments": {"x-message-ttl": 7}},
        "mine": {"exclusive": True, "durable": False},
    }
    queues = {name: app.amqp.queues.wire(name) for name in app.amqp.queues}
    assert {name: queue.routing_key for name, queue in queues.items()} == {
        name: "b" if name == "bound" else name for name in queues
    }
    assert queues["typed"].exchange.name == "celery"
    assert queues["news"].exchange.auto_delete
    assert not queues["apart"].exchange.auto_delete
    assert not queues["apart"].exchange.durable
    assert queues["apart"].durable
    assert queues["limited"].arguments == {"x-message-ttl": 7, "x-max-length": 3, "x-expires": 60500}
    assert {name for name, queue in queues.items() if queue.auto_delete} == {"news", "apart", "mine"}
    assert {name for name, queue in queues.items() if not queue.durable} == {"mine"}
