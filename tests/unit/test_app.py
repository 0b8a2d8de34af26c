"""The application: making it, configuring it, its tasks."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
import types
from datetime import timedelta
from typing import Any

import pytest

import celery
from celery import Celery, Task, _state, current_app, shared_task, signals
from celery._state import get_current_app
from celery.app.base import PendingConfiguration
from celery.exceptions import DuplicateTaskNameWarning, ImproperlyConfigured, NotRegistered


@pytest.fixture(autouse=True)
def _own_shared_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test shares with every app, the apps of other tests do not get."""
    monkeypatch.setattr(_state, "_finalizers", dict(_state._finalizers))


def make(name: str = "app", **options: Any) -> Celery:
    return Celery(name, **{"broker": "memory://app", "backend": "memory://app", "set_as_current": False, **options})


class TestConstructor:
    def test_urls_include_and_other_settings_are_given_to_it(self) -> None:
        app = make(include=["proj.tasks"], task_acks_late=True, changes={"task_time_limit": 3})
        assert app.main == "app"
        assert (app.conf.broker_url, app.conf.result_backend) == ("memory://app", "memory://app")
        assert list(app.conf.include) == ["proj.tasks"]
        assert app.conf.task_acks_late is True
        assert app.conf.task_time_limit == 3

    def test_an_unknown_setting_is_refused_with_the_nearest_name(self) -> None:
        app = make(task_ack_late=True)
        with pytest.raises(ImproperlyConfigured, match="task_acks_late"):
            _ = app.conf.task_serializer

    def test_it_is_the_current_app_of_its_thread_unless_told_otherwise(self) -> None:
        first = Celery("first")
        make("second")
        assert get_current_app() is first

    def test_other_threads_use_the_app_made_last(self) -> None:
        app = Celery("made-here")
        seen = []
        thread = threading.Thread(target=lambda: seen.append(get_current_app()))
        thread.start()
        thread.join()
        assert seen == [app]

    def test_without_any_app_a_default_one_is_made(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_state, "default_app", None)
        assert current_app.main == "default"
        assert get_current_app() is get_current_app()

    def test_parts_can_be_replaced(self) -> None:
        class Log:
            def __init__(self, app: Celery) -> None:
                self.app = app

        app = make(log=Log)
        assert isinstance(app.log, Log)
        assert app.log.app is app

    def test_on_init_and_repr(self) -> None:
        class Mine(Celery):
            ready = False

            def on_init(self) -> None:
                self.ready = True

        app = Mine("mine", set_as_current=False)
        assert app.ready
        assert repr(app).startswith("<Mine mine at 0x")


class TestConfiguration:
    def test_writing_does_not_read_it_but_reading_does(self) -> None:
        app = make()
        app.conf.task_serializer = "yaml"
        app.conf["task_ignore_result"] = True
        app.conf.update(task_time_limit=5)
        assert isinstance(app.conf, PendingConfiguration)
        assert not app.configured
        assert app.conf.task_serializer == "yaml"
        assert app.configured
        assert app.conf.task_ignore_result is True
        assert app.conf.task_time_limit == 5

    def test_a_reference_taken_before_goes_on_working(self) -> None:
        app = make()
        early = app.conf
        early.task_serializer = "yaml"
        assert app.conf.task_serializer == "yaml"
        early.task_serializer = "json"
        assert app.conf.task_serializer == "json"
        assert early.changes["task_serializer"] == "json"
        assert early.data.changes == app.conf.changes

    def test_from_an_object_with_a_namespace(self) -> None:
        app = make(broker=None)
        source = types.SimpleNamespace(CELERY_TASK_ACKS_LATE=True, CELERY_BROKER_URL="memory://ns", OTHER=1)
        assert app.config_from_object(source, namespace="CELERY") is None
        assert not app.configured
        assert app.conf.task_acks_late is True
        assert app.conf.broker_url == "memory://ns"
        assert app.namespace == "CELERY"

    def test_from_a_dictionary_at_once_when_forced(self) -> None:
        app = make()
        app.config_from_object({"task_acks_late": True}, force=True)
        assert app.configured
        assert app.conf.task_acks_late is True

    def test_from_a_module_by_its_name(self, monkeypatch: pytest.MonkeyPatch) -> None:
        module = types.ModuleType("settings_of_test_app")
        module.task_default_queue = "from-module"  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)
        app = make()
        app.config_from_object("settings_of_test_app")
        assert app.conf.task_default_queue == "from-module"

    def test_a_wrong_module_is_an_error_unless_silent(self) -> None:
        app = make()
        app.config_from_object("there.is.no.such.module")
        with pytest.raises(ImportError, match="no configuration module"):
            _ = app.conf.task_serializer
        other = make()
        other.config_from_object("there.is.no.such.module", silent=True)
        assert other.conf.task_serializer == "json"

    def test_from_an_environment_variable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        app = make()
        with pytest.raises(ImproperlyConfigured, match="NO_SUCH_VARIABLE"):
            app.config_from_envvar("NO_SUCH_VARIABLE")
        assert app.config_from_envvar("NO_SUCH_VARIABLE", silent=True) is False
        module = types.ModuleType("settings_of_envvar")
        module.task_default_queue = "from-env"  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setenv("MY_SETTINGS", "settings_of_envvar")
        assert app.config_from_envvar("MY_SETTINGS") is True
        assert app.conf.task_default_queue == "from-env"

    def test_from_the_command_line(self) -> None:
        app = make()
        app.config_from_cmdline(["worker.prefetch_multiplier=10", "task_acks_late=yes"])
        assert app.conf.worker_prefetch_multiplier == 10
        assert app.conf.task_acks_late is True

    def test_a_new_source_replaces_what_was_made_from_the_old_one(self) -> None:
        app = make(broker=None, backend=None)
        app.config_from_object({"broker_url": "memory://old"})
        old = app.broker
        app.config_from_object({"broker_url": "memory://new"})
        assert app.broker is not old
        assert app.broker.url == "memory://new"

    def test_signals_and_defaults(self) -> None:
        app = make()
        seen = []

        @app.on_configure.connect
        def before(sender: Celery, **_: Any) -> None:
            seen.append(("configure", sender.configured))

        @app.on_after_configure.connect
        def after(sender: Celery, source: Any, **_: Any) -> None:
            seen.append(("after", source.task_default_queue))

        @app.add_defaults
        def defaults() -> dict[str, Any]:
            return {"task_default_queue": "by-default"}

        assert app.conf.task_default_queue == "by-default"
        assert seen == [("configure", False), ("after", "by-default")]
        app.add_defaults({"task_default_exchange": "late"})
        assert app.conf.task_default_exchange in {"late", "by-default"}

    def test_on_configure_may_be_a_method(self) -> None:
        class Mine(Celery):
            def on_configure(self) -> None:
                self.conf.task_default_queue = "set-in-hook"

        assert Mine("mine", set_as_current=False).conf.task_default_queue == "set-in-hook"

    def test_either_and_times(self) -> None:
        app = make()
        assert app.either("task_serializer", None, "yaml") == "yaml"
        assert app.either("task_serializer", None) == "json"
        assert app.uses_utc_timezone()
        assert app.now().utcoffset() == timedelta(0)
        berlin = make(timezone="Europe/Berlin")
        assert str(berlin.timezone) == "Europe/Berlin"
        assert not berlin.uses_utc_timezone()


class TestTasks:
    def test_a_task_is_made_when_it_is_first_used(self) -> None:
        app = make()

        @app.task
        def add(x: int, y: int) -> int:
            """Adds."""
            return x + y

        assert not app.finalized
        assert add.name == f"{__name__}.add"
        assert app.tasks[add.name] == add
        assert app.finalized
        assert add(1, 2) == 3
        assert add.__doc__ == "Adds."
        assert add.__name__ == "add"
        assert app.tasks[add.name].__module__ == __name__

    def test_names_in_main_are_those_of_the_app(self) -> None:
        app = make("proj")
        assert app.gen_task_name("add", "__main__") == "proj.add"
        assert app.gen_task_name("add", "mod") == "mod.add"

    def test_options_become_attributes_and_settings_fill_the_rest(self) -> None:
        app = make(task_acks_late=True, task_default_rate_limit="5/m", task_time_limit=9)

        @app.task(max_retries=7, queue="q", rate_limit="1/s")
        def job() -> None: ...

        assert (job.max_retries, job.rate_limit, job.acks_late, job.time_limit) == (7, "1/s", True, 9)
        assert job.queue == "q"  # type: ignore[attr-defined]

    def test_base_classes(self) -> None:
        class Base(Task):  # type: ignore[type-arg]
            abstract = True
            greeting = "hi"

        app = make(task_cls=Base)

        class Other(app.Task):  # type: ignore[name-defined,misc]
            greeting = "ho"

        @app.task
        def one() -> None: ...

        @app.task(base=Other)
        def two() -> None: ...

        assert isinstance(one, Base)
        assert one.greeting == "hi"  # type: ignore[attr-defined]
        assert two.greeting == "ho"  # type: ignore[attr-defined]
        assert isinstance(two, Task)

    def test_the_base_may_be_assigned_to_the_app(self) -> None:
        """The way Flask's documentation once taught."""
        app = make()
        calls = []
        base = app.Task

        class ContextTask(base):  # type: ignore[valid-type,misc]
            abstract = True

            def __call__(self, *args: Any, **kwargs: Any) -> Any:
                calls.append(self.name)
                return self.run(*args, **kwargs)

        app.Task = ContextTask

        @app.task(name="job")
        def job() -> int:
            return 5

        assert job() == 5
        assert job.apply().get() == 5
        assert calls == ["job", "job"]

    def test_classes_are_registered(self) -> None:
        app = make()

        class Scale(Task):  # type: ignore[type-arg]
            factor = 3

            def run(self, x: int) -> int:
                return x * self.factor

        task = app.register_task(Scale())
        assert task.name == f"{__name__}.Scale"
        assert app.tasks[task.name] is task
        assert task(2) == 6
        assert task.app is app
        with pytest.raises(TypeError, match="run"):
            task.delay(1, 2, 3)

    def test_the_decorator_refuses_classes_and_explains(self) -> None:
        app = make()
        with pytest.raises(TypeError, match="register_task"):
            app.task(Task)
        with pytest.raises(TypeError, match="keyword options"):
            app.task("name")

    def test_of_two_tasks_with_one_name_the_first_stays(self) -> None:
        app = make()

        @app.task(name="same")
        def one() -> int:
            return 1

        @app.task(name="same")
        def two() -> int:
            return 2

        with pytest.warns(DuplicateTaskNameWarning, match="already registered"):
            app.finalize()
        assert two() == one() == 1

    def test_an_unknown_task(self) -> None:
        with pytest.raises(NotRegistered):
            _ = make().tasks["nope"]

    def test_tasks_of_one_app_are_known_to_others_while_it_lives(self) -> None:
        one = make("one")

        @one.task(name="everywhere")
        def everywhere() -> None: ...

        @one.task(name="here", shared=False)
        def here() -> None: ...

        two = make("two")
        assert "everywhere" in two.tasks
        assert "here" not in two.tasks
        assert two.tasks["everywhere"].app is two

    def test_an_app_that_does_not_finalize_itself(self) -> None:
        app = make(autofinalize=False)

        @app.task(name="job")
        def job() -> None: ...

        with pytest.raises(RuntimeError, match="finalize"):
            _ = job.name
        with pytest.raises(RuntimeError, match="finalize"):
            _ = app.tasks
        app.finalize()
        assert "job" in app.tasks

    def test_finalizing_tells_who_listens_and_happens_once(self) -> None:
        app = make()
        seen: list[Any] = []
        app.on_after_finalize.connect(lambda sender, **_: seen.append(sender), weak=False)
        app.finalize()
        app.finalize()
        assert seen == [app]

    def test_annotations(self) -> None:
        app = make(task_annotations={"*": {"rate_limit": "3/s"}, "job": {"time_limit": 4}})

        @app.task(name="job")
        def job() -> None: ...

        assert (job.rate_limit, job.time_limit) == ("3/s", 4)

    def test_builtin_tasks(self) -> None:
        tasks = make().tasks
        assert tasks["celery.accumulate"](1, 2) == (1, 2)
        assert tasks["celery.accumulate"](1, 2, index=1) == 2
        assert "celery.backend_cleanup" in tasks


class TestSharedTasks:
    def test_before_and_after_the_app(self) -> None:
        @shared_task(name="shared.before", max_retries=9)
        def before(x: int) -> int:
            return x + 1

        app = Celery("later", broker="memory://shared")
        app.finalize()

        @shared_task(name="shared.after")
        def after(x: int) -> int:
            return x + 2

        assert before(1) == 2
        assert after(1) == 3
        assert before.app is app
        assert before.max_retries == 9
        assert {"shared.before", "shared.after"} <= set(app.tasks)
        assert before.delay(1).id

    def test_it_follows_the_current_app(self) -> None:
        @shared_task(name="shared.follows")
        def follows() -> None: ...

        one, two = make("one"), make("two")
        one.set_current()
        assert follows.app is one
        two.set_current()
        assert follows.app is two

    def test_positional_arguments_other_than_the_function_are_refused(self) -> None:
        with pytest.raises(TypeError, match="keyword options"):
            shared_task("name")  # type: ignore[call-overload]


class TestModules:
    def test_autodiscovery_waits_for_the_import_of_modules(
        self, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        package = tmp_path / "discovered_pkg"
        package.mkdir()
        (package / "__init__.py").write_text("")
        (package / "tasks.py").write_text("from celery import shared_task\n\n@shared_task\ndef found(): pass\n")
        monkeypatch.syspath_prepend(tmp_path)
        app = Celery("discover")
        app.autodiscover_tasks(lambda: ["discovered_pkg"])
        assert "discovered_pkg.tasks" not in sys.modules
        app.loader.import_default_modules()
        assert "discovered_pkg.tasks.found" in app.tasks

    def test_autodiscovery_at_once(self, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        package = tmp_path / "forced_pkg"
        package.mkdir()
        (package / "__init__.py").write_text("")
        (package / "jobs.py").write_text("from celery import shared_task\n\n@shared_task\ndef found(): pass\n")
        monkeypatch.syspath_prepend(tmp_path)
        app = Celery("discover")
        app.autodiscover_tasks(["forced_pkg"], related_name="jobs", force=True)
        assert "forced_pkg.jobs.found" in app.tasks

    def test_fixups_are_asked_for_packages(self) -> None:
        asked = []

        class Fixup:
            def __init__(self, app: Celery) -> None:
                self.app = app

            def autodiscover_tasks(self) -> list[str]:
                asked.append(self.app)
                return []

        app = Celery("fixed", fixups=[Fixup])  # type: ignore[list-item]
        app.autodiscover_tasks()
        signals.import_modules.send(sender=app)
        assert asked == [app]

    def test_django_is_left_alone_where_it_is_not_meant(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("DJANGO_SETTINGS_MODULE", raising=False)
        assert make().fixups == {"celery.fixups.django:fixup"}
        assert "django" not in sys.modules


class TestPeriodicTasks:
    def test_entries_wait_for_the_configuration(self) -> None:
        app = make()

        @app.task(name="job")
        def job(x: int) -> None: ...

        key = app.add_periodic_task(10.0, job.s(1), queue="q")
        named = app.add_periodic_task(5.0, job.s(2), name="every five", expires=3)
        assert (key, named) == ("job(1)", "every five")
        schedule = app.conf.beat_schedule
        assert schedule["job(1)"] == {
            "schedule": 10.0, "task": "job", "args": (1,), "kwargs": {}, "options": {"queue": "q"},
        }  # fmt: skip
        assert schedule["every five"]["options"] == {"expires": 3}
        app.add_periodic_task(1.0, job, args=(7,))
        assert schedule["job(7)"]["args"] == (7,)

    def test_another_app_keeps_its_own(self) -> None:
        one, two = make("one"), make("two")
        one.add_periodic_task(1.0, one.signature("x"))
        assert one.conf.beat_schedule
        assert two.conf.beat_schedule == {}


class TestPickling:
    def test_tasks_are_found_again_by_name(self) -> None:
        app = Celery("pickled", broker="memory://pickled")

        @app.task(shared=False)
        def job() -> None: ...

        again = pickle.loads(pickle.dumps(job))
        assert again is app.tasks[job.name]

    def test_apps_are_made_again_with_what_was_set(self) -> None:
        app = make("pickled", task_acks_late=True)
        again = pickle.loads(pickle.dumps(app))
        assert again is not app
        assert again.main == "pickled"
        assert again.conf.task_acks_late is True
        assert again.conf.broker_url == "memory://app"


class TestParts:
    def test_the_embedded_broker_and_its_results_share_a_file(self) -> None:
        app = Celery("embedded proj")
        assert app.broker.url.startswith("sqlite:///")
        assert app.broker.url.endswith("embedded_proj.db")
        assert app.store is not None
        assert app.store.url == app.broker.url
        assert app.broker.fuses(app.store)
        app.close()

    def test_with_a_broker_but_no_result_backend_results_are_disabled(self) -> None:
        app = make(backend=None)
        assert app.store is None
        assert app.backend.as_uri() == "disabled://"

    def test_a_result_backend_class_of_somebody_else(self) -> None:
        app = make(backend="celery.backends.base:DisabledBackend")
        assert type(app.backend).__name__ == "DisabledBackend"
        assert app.store is None

    def test_an_unknown_backend_or_broker_says_what_is_known(self) -> None:
        with pytest.raises(ImproperlyConfigured, match="redos"):
            _ = make(backend="redos://localhost").backend
        with pytest.raises(ImproperlyConfigured, match="sqlite"):
            _ = make(broker="sqlit://x").broker

    def test_the_environment_names_the_broker(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CELERY_BROKER_URL", "memory://from-env")
        assert Celery("env").broker.url == "memory://from-env"

    def test_reading_and_writing_can_be_apart(self) -> None:
        app = make(broker_read_url="memory://read", broker_write_url="memory://write")
        assert app.broker.url == "memory://write"
        assert app.broker_for_read().url == "memory://read"
        same = make()
        assert same.broker_for_read() is same.broker

    def test_results_belong_to_the_app(self) -> None:
        app = make()
        assert app.AsyncResult("x").app is app
        assert issubclass(app.GroupResult, app.subclass_with_self("celery.result:GroupResult").__mro__[1])
        assert app.ResultSet([]).app is app

    def test_ids_of_places(self) -> None:
        app = make()
        seen = []
        thread = threading.Thread(target=lambda: seen.append(app.thread_oid))
        thread.start()
        thread.join()
        assert app.thread_oid == app.thread_oid
        assert seen[0] not in {app.thread_oid, app.oid}
        assert make().oid != app.oid

    def test_a_forked_child_is_another_place(self) -> None:
        script = (
            "import os, sys; from celery import Celery\n"
            "app = Celery('f', broker='memory://f'); forks = []\n"
            "app.on_after_fork.connect(lambda sender, **_: forks.append(sender), weak=False)\n"
            "before = (app.oid, app.thread_oid)\n"
            "pid = os.fork()\n"
            "if pid == 0: os._exit(0 if forks == [app] and not {app.oid, app.thread_oid} & set(before) else 1)\n"
            "sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
        )
        assert subprocess.run([sys.executable, "-c", script], check=False, env=dict(os.environ)).returncode == 0

    def test_kombu_connections(self) -> None:
        app = make(broker="memory://")
        with app.connection() as connection:
            assert connection.as_uri().startswith("memory://")
        with app.connection_for_read("amqp://guest@somewhere:1234/five") as connection:
            assert connection.as_uri() == "amqp://guest:**@somewhere:1234/five"
        with pytest.raises(ImproperlyConfigured, match="kombu has no transport for 'sqlite'"):
            make(broker="sqlite:///x.db").connection()

    def test_worker_main_needs_its_command(self) -> None:
        with pytest.raises(ValueError, match="worker"):
            make().worker_main(["beat"])

    def test_a_report(self) -> None:
        assert "software -> celery:" in make().bugreport()
        current = make(set_as_current=True, broker="memory://of-the-report")
        assert celery.bugreport() == current.bugreport()
