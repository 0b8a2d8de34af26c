"""Words about apps that are found here by name: settings, bug reports, how an app is pickled."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from celery import VERSION_BANNER, drivers
from celery._state import get_current_app
from celery.app.find import find_app
from celery.app.hidden import HIDDEN_SETTINGS, mask_settings, sanitize_url
from celery.app.names import E_MIX_NEW_INTO_OLD, E_MIX_OLD_INTO_NEW, FMT_REPLACE_SETTING
from celery.app.settings import Settings, detect_settings
from celery.utils.plugins import version

BUGREPORT_INFO = """
software -> celery:{celery_v} kombu:{kombu_v} py:{py_v}
            {driver_v}
platform -> system:{system} arch:{arch}
            kernel version:{kernel_version} imp:{py_i}
loader   -> {loader}
settings -> transport:{transport} results:{results}
driver   -> {driver}
brokers  -> {drivers}

{human_settings}
"""

# Drivers worth naming in a report: the scheme of the broker's URL, and the distributions behind it.
_REDIS = ("redis", "hiredis")
_DRIVERS: Mapping[str, Sequence[str]] = {
    **dict.fromkeys(("amqp", "amqps", "pyamqp"), ("amqp",)),
    **dict.fromkeys(drivers.REDIS, _REDIS),
    **dict.fromkeys(("sqs", "SQS"), ("boto3",)),
    **dict.fromkeys(("sqla", "sqlalchemy"), ("SQLAlchemy",)),
    "azureservicebus": ("azure-servicebus",),
    "azurestoragequeues": ("azure-storage-queue",),
    **dict.fromkeys(("confluentkafka", "kafka"), ("confluent-kafka",)),
    "consul": ("python-consul2",),
    "gcpubsub": ("google-cloud-pubsub",),
    "mongodb": ("pymongo",),
    "pgmq": ("pgmq",),
    "zookeeper": ("kazoo",),
}

filter_hidden_settings: Callable[[Mapping[str, Any]], dict[str, Any]] = mask_settings


class AppPickler:
    """How an app is pickled and made again; subclass it with the app's `Pickler`."""

    def __call__(self, cls: type, *args: Any) -> Any:
        kwargs = self.build_kwargs(*args)
        app = self.construct(cls, **kwargs)
        self.prepare(app, **kwargs)
        return app

    def prepare(self, app: Any, **kwargs: Any) -> None:
        app.conf.update(kwargs["changes"])

    def build_kwargs(self, *args: Any) -> dict[str, Any]:
        return self.build_standard_kwargs(*args)

    def build_standard_kwargs(
        self,
        main: str | None,
        changes: Mapping[str, Any],
        loader: Any,
        backend: Any,
        amqp: Any,
        events: Any,
        log: Any,
        control: Any,
        accept_magic_kwargs: bool,
        config_source: Any = None,
        config_source_silent: bool = False,
    ) -> dict[str, Any]:
        return {
            "main": main,
            "loader": loader,
            "backend": backend,
            "amqp": amqp,
            "changes": changes,
            "events": events,
            "log": log,
            "control": control,
            "set_as_current": False,
            "config_source": config_source,
            "config_source_silent": config_source_silent,
        }

    def construct(self, cls: type, **kwargs: Any) -> Any:
        return cls(**kwargs)


def appstr(app: Any) -> str:
    """How an app is named where there is little room: `main at 0x7f…`."""
    return f"{app.main or '__main__'} at {id(app):#x}"


def bugreport(app: Any = None) -> str:
    """What belongs into a report of a problem: versions, the machine, the settings of the app without secrets."""
    app = app or get_current_app()
    url = drivers.first_url(app.conf.broker_url or "")
    scheme = url.partition(":")[0] or "embedded"
    return BUGREPORT_INFO.format(
        system=platform.system(),
        arch=", ".join(filter(None, platform.architecture())),
        kernel_version=platform.release(),
        py_i=platform.python_implementation(),
        py_v=platform.python_version(),
        celery_v=VERSION_BANNER,
        kombu_v=_version("kombu"),
        driver_v=" ".join(f"{name}:{_version(name)}" for name in _DRIVERS.get(scheme.partition("+")[0], ()))
        or "driver: built in",
        transport=scheme,
        driver=driver_kind(url),
        drivers=_drivers_there_are(),
        results=sanitize_url(str(app.conf.result_backend or ("disabled" if url else "embedded"))),
        human_settings=app.conf.humanize(),
        loader=f"{type(app.loader).__module__}.{type(app.loader).__qualname__}",
    )


def driver_kind(url: str) -> str:
    """How a broker is spoken to: `native` by a driver of ours, `over kombu`, or by the `plug-in` of a package."""
    scheme = drivers.scheme(url)
    if scheme in drivers.known("broker") and scheme not in drivers.BROKERS:
        return "plug-in"
    if drivers.bridged(url):
        return "over kombu"
    return "native" if not url or scheme in drivers.BROKERS else "unknown"


def _drivers_there_are() -> str:
    known = drivers.known("broker")
    native = [name for name in known if name in drivers.BROKERS and name not in drivers.BRIDGED]
    plugins = [name for name in known if name not in drivers.BROKERS]
    bridged = sorted(drivers.BRIDGED, key=str.lower)
    kinds = {"native": native, "over kombu": bridged, "plug-ins": plugins}
    return "\n            ".join(f"{kind}: {' '.join(names)}" for kind, names in kinds.items() if names)


def _version(distribution: str) -> str:
    return version(distribution) or "not installed"


__all__ = [
    "BUGREPORT_INFO",
    "E_MIX_NEW_INTO_OLD",
    "E_MIX_OLD_INTO_NEW",
    "FMT_REPLACE_SETTING",
    "HIDDEN_SETTINGS",
    "AppPickler",
    "Settings",
    "appstr",
    "bugreport",
    "detect_settings",
    "filter_hidden_settings",
    "find_app",
    "sanitize_url",
]
