"""Words about apps that are found here by name: settings, bug reports, how an app is pickled."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from celery import VERSION_BANNER, drivers
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

{human_settings}
"""

# Drivers worth naming in a report: the scheme of the broker's URL, and the distributions behind it.
_REDIS = ("redis", "hiredis")
_DRIVERS: Mapping[str, Sequence[str]] = {
    **dict.fromkeys(("amqp", "amqps", "pyamqp"), ("amqp",)),
    **dict.fromkeys(drivers.REDIS, _REDIS),
    "sqs": ("boto3",),
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
        }

    def construct(self, cls: type, **kwargs: Any) -> Any:
        return cls(**kwargs)


def appstr(app: Any) -> str:
    """How an app is named where there is little room: `main at 0x7f…`."""
    return f"{app.main or '__main__'} at {id(app):#x}"


def bugreport(app: Any) -> str:
    """What belongs into a report of a problem: versions, the machine, the settings without secrets."""
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
        driver_v=" ".join(f"{name}:{_version(name)}" for name in _DRIVERS.get(scheme, ())) or "driver: built in",
        transport=scheme,
        driver=driver_kind(scheme),
        results=sanitize_url(str(app.conf.result_backend or ("disabled" if url else "embedded"))),
        human_settings=app.conf.humanize(),
        loader=f"{type(app.loader).__module__}.{type(app.loader).__qualname__}",
    )


def driver_kind(scheme: str) -> str:
    """How a broker is spoken to: `native` by a driver of ours, `bridged` through kombu, else by another package."""
    if scheme in drivers.BROKERS or scheme == "embedded":
        return "bridged" if ":Kombu" in drivers.BROKERS.get(scheme, "") else "native"
    return "plug-in" if scheme in drivers.known("broker") else "bridged"


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
