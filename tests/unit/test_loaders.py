"""Loaders: reading the configuration, importing modules of tasks, settings from the command line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import UTC
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from celery import signals
from celery.app.settings import detect_settings
from celery.exceptions import NotConfigured
from celery.loaders import default, get_loader_cls
from celery.loaders.app import AppLoader
from celery.loaders.base import BaseLoader, autodiscover_tasks, find_related_module


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that is the current one; what is imported from it is forgotten."""
    before = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.fixture
def loader() -> AppLoader:
    return AppLoader(app=SimpleNamespace(conf=detect_settings({})))


def write(folder: Path, **files: str) -> None:
    """Write modules; `a__b` is the module `b` of the package `a`."""
    for name, text in files.items():
        path = folder.joinpath(*name.split("__")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        for parent in path.parents:
            if parent == folder:
                break
            (parent / "__init__.py").touch()
        path.write_text(text)


def test_loaders_by_name() -> None:
    assert get_loader_cls("app") is AppLoader
    assert get_loader_cls("default") is default.Loader
    assert get_loader_cls("celery.loaders.base:BaseLoader") is BaseLoader
    assert get_loader_cls(AppLoader) is AppLoader


class TestConfiguration:
    def test_from_a_mapping(self, loader: AppLoader) -> None:
        assert loader.config_from_object({"task_acks_late": True})

        assert loader.conf == {"task_acks_late": True}

    @pytest.mark.parametrize("path", ["shopconfig:Live", "shopconfig.Live"])
    def test_from_an_object_by_name(self, loader: AppLoader, folder: Path, path: str) -> None:
        write(folder, shopconfig="class Live:\n    task_serializer = 'yaml'\n")

        loader.config_from_object(path)

        assert loader.conf["task_serializer"] == "yaml"
        assert "task_serializer" in loader.conf
        assert loader.conf.get("nope") is None
        assert detect_settings(loader.conf).task_serializer == "yaml"

    def test_from_a_module(self, loader: AppLoader, folder: Path) -> None:
        write(folder, proj__config="import os\ntask_serializer = 'yaml'\noverride_backends = {'x': 'y'}\n")

        loader.config_from_object("proj.config")

        assert detect_settings(loader.conf).task_serializer == "yaml"
        assert loader.override_backends == {"x": "y"}

    @pytest.mark.parametrize("name", ["no_such_config", "no_such_package.config", "no_such_config:Live"])
    def test_a_name_that_leads_nowhere(self, loader: AppLoader, name: str) -> None:
        assert not loader.config_from_object(name, silent=True)
        with pytest.raises(ModuleNotFoundError):
            loader.config_from_object(name)

    def test_an_attribute_that_is_not_there(self, loader: AppLoader) -> None:
        assert not loader.config_from_object("json:nope", silent=True)
        with pytest.raises(AttributeError):
            loader.config_from_object("json.nope")

    def test_what_a_configuration_lacks_itself_is_not_hidden(self, loader: AppLoader, folder: Path) -> None:
        write(folder, brokenconfig="import no_such_library\n")

        with pytest.raises(ModuleNotFoundError, match="no_such_library"):
            loader.config_from_object("brokenconfig")

    def test_a_file_instead_of_a_module(self, loader: AppLoader, folder: Path) -> None:
        with pytest.raises(ModuleNotFoundError, match=r"'settings.py'; did you mean 'settings'\?"):
            loader.config_from_object("settings.py")

    def test_from_the_environment(self, loader: AppLoader, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert loader.conf is None

        write(folder, envconfig="task_serializer = 'yaml'\n")
        monkeypatch.setenv("CELERY_CONFIG_MODULE", "envconfig")
        late = AppLoader(app=None)

        assert late.conf["task_serializer"] == "yaml"

    def test_the_environment_names_no_module(self, loader: AppLoader, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CELERY_CONFIG_MODULE", "no_such_config")

        with pytest.raises(ModuleNotFoundError, match="no configuration module 'no_such_config': give the dotted"):
            loader.read_configuration()


class TestDefaultLoader:
    def test_celeryconfig(self, folder: Path) -> None:
        write(folder, celeryconfig="task_serializer = 'yaml'\n")
        loader = default.Loader(app=None)

        assert loader.conf["task_serializer"] == "yaml"
        assert loader.configured

    def test_without_one(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        loader = default.Loader(app=None)

        assert dict(loader.read_configuration()) == {}
        with pytest.raises(ModuleNotFoundError, match="celeryconfig"):
            loader.read_configuration(fail_silently=False)
        monkeypatch.setattr(default, "C_WNOCONF", True)
        with pytest.warns(NotConfigured, match="no configuration module 'celeryconfig'"):
            loader.read_configuration()

    def test_a_broken_one_is_seen(self, folder: Path) -> None:
        write(folder, celeryconfig="import no_such_library\n")

        with pytest.raises(ModuleNotFoundError, match="no_such_library"):
            default.Loader(app=None).read_configuration()


class TestModules:
    def test_imports_and_include(self, loader: AppLoader, folder: Path) -> None:
        write(folder, shop_tasks="", mail_tasks="")
        loader.app.conf.update(imports=("shop_tasks",), include=["mail_tasks", "shop_tasks"])

        assert loader.default_modules == ("shop_tasks", "mail_tasks")
        assert [module.__name__ for module in loader.import_default_modules()] == ["shop_tasks", "mail_tasks"]
        assert loader.task_modules == {"shop_tasks", "mail_tasks"}

    def test_receivers_are_asked_first_and_their_errors_raised(self, loader: AppLoader) -> None:
        def broken(**kwargs: Any) -> None:
            raise LookupError("no models yet")

        signals.import_modules.connect(broken, sender=loader.app)

        with pytest.raises(LookupError, match="no models yet"):
            loader.import_default_modules()

    def test_related_modules(self, folder: Path) -> None:
        write(folder, shop__tasks="", shop__apps="class ShopConfig: pass\n", mail__models="", plain="")

        def found(package: str, name: str | None = "tasks") -> str | None:
            module = find_related_module(package, name)
            return module and module.__name__

        assert found("shop") == "shop.tasks"
        assert found("shop.apps") == "shop.tasks"
        assert found("shop.apps.ShopConfig") == "shop.tasks"
        assert found("shop", "models") is None
        assert found("mail") is None
        assert found("plain") is None
        assert found("shop.tasks", None) == "shop.tasks"
        with pytest.raises(ModuleNotFoundError):
            found("no_such_package")
        assert [module and module.__name__ for module in autodiscover_tasks(["shop", "mail"])] == ["shop.tasks", None]

    def test_what_is_found_is_remembered(self, loader: AppLoader, folder: Path) -> None:
        write(folder, shop__tasks="", mail__models="")

        loader.autodiscover_tasks(["shop", "mail"])

        assert loader.task_modules == {"shop.tasks"}

    @pytest.mark.parametrize("error", ["import no_such_library", "raise KeyError('inside')"])
    def test_an_error_in_a_related_module_is_raised(self, folder: Path, error: str) -> None:
        write(folder, shop__tasks=error)

        with pytest.raises((ModuleNotFoundError, KeyError), match=r"no_such_library|inside"):
            find_related_module("shop", "tasks")

    def test_the_worker_is_prepared_once(self, folder: Path) -> None:
        calls: list[str] = []

        class Loader(AppLoader):
            def on_worker_init(self) -> None:
                calls.append("init")

            def on_worker_shutdown(self) -> None:
                calls.append("shutdown")

            def on_worker_process_init(self) -> None:
                calls.append("process")

        loader = Loader(app=SimpleNamespace(conf=detect_settings({})))
        for step in (loader.init_worker, loader.init_worker, loader.init_worker_process, loader.shutdown_worker):
            step()

        assert calls == ["init", "process", "shutdown"]
        assert loader.worker_initialized

    def test_now(self, loader: AppLoader) -> None:
        assert loader.now().tzinfo is UTC
        assert loader.now(utc=False).tzinfo is None


class TestCommandLine:
    @pytest.mark.parametrize(
        ("arg", "namespace", "parsed"),
        [
            ("worker.prefetch_multiplier=10", "celery", ("worker_prefetch_multiplier", 10)),
            ("worker_prefetch_multiplier=10", "celery", ("worker_prefetch_multiplier", 10)),
            ("prefetch_multiplier=10", "worker", ("worker_prefetch_multiplier", 10)),
            (".prefetch_multiplier=(int)10", "worker", ("worker_prefetch_multiplier", 10)),
            ("task_always_eager=yes", "celery", ("task_always_eager", True)),
            ("TASK_ALWAYS_EAGER=(bool)off", "celery", ("task_always_eager", False)),
            ("broker.url=memory://x?a=b", "celery", ("broker_url", "memory://x?a=b")),
            ("enable_utc=0", "celery", ("enable_utc", False)),
            ("result_expires=3", "celery", ("result_expires", 3.0)),
            ('broker_transport_options={"a": 1}', "celery", ("broker_transport_options", {"a": 1})),
            ('task_routes=(json){"a": "b"}', "celery", ("task_routes", {"a": "b"})),
            ("imports=a,b", "celery", ("imports", ("a", "b"))),
            ('imports=(tuple)["a"]', "celery", ("imports", ("a",))),
            ('imports=["a"]', "celery", ("imports", ["a"])),
            ("worker_lease=5", "celery", ("worker_lease", 5.0)),
        ],
    )
    def test_one_setting(self, loader: AppLoader, arg: str, namespace: str, parsed: tuple[str, Any]) -> None:
        assert loader.cmdline_config_parser([arg], namespace) == dict([parsed])

    @pytest.mark.parametrize(
        ("arg", "message"),
        [
            ("nokey", "'nokey' is no setting: write name=value."),
            ("=3", "'=3' is no setting: write name=value."),
            ("task_ack_late=1", "There is no setting 'task_ack_late'; did you mean 'task_acks_late'?"),
            ("worker.acks_late=1", "There is no setting 'worker_acks_late'; did you mean 'task_acks_late'?"),
            ("task_protocol=x", "The setting 'task_protocol' is wrong: it has to be a whole number, and 'x' is text."),
            ("task_protocol=(what)2", "known are: any, bool, dict, float, int, json, list, string, tuple."),
        ],
    )
    def test_what_is_none(self, loader: AppLoader, arg: str, message: str) -> None:
        with pytest.raises(ValueError, match=r"setting|known are") as raised:
            loader.cmdline_config_parser([arg])

        assert message in str(raised.value)

    def test_own_types(self, loader: AppLoader) -> None:
        parse = loader.cmdline_config_parser

        assert parse(["task_serializer=(upper)json"], extra_types={"upper": str.upper}) == {"task_serializer": "JSON"}
        assert parse(["task_protocol=[1]"], override_types={"int": "json"}) == {"task_protocol": [1]}
