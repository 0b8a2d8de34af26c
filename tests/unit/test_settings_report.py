"""What is told about an app: bug reports, its short name; and how it travels."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from celery import VERSION_BANNER
from celery.app.settings import detect_settings
from celery.app.utils import AppPickler, appstr, bugreport, filter_hidden_settings, sanitize_url
from celery.loaders.app import AppLoader


def make_app(**settings: Any) -> Any:
    return SimpleNamespace(main="shop", conf=detect_settings(settings), loader=AppLoader(app=None))


def test_a_report_has_versions_and_settings_but_no_secrets() -> None:
    report = bugreport(make_app(broker_url="redis://:secret@host", result_backend="redis://u:secret@host"))

    assert f"software -> celery:{VERSION_BANNER} " in report
    assert "loader   -> celery.loaders.app.AppLoader" in report
    assert "settings -> transport:redis results:redis://u:********@host" in report
    assert "broker_url: 'redis://:********@host'" in report
    assert "secret" not in report


def test_a_report_of_the_embedded_broker() -> None:
    assert "settings -> transport:embedded results:embedded" in bugreport(make_app())
    assert "settings -> transport:memory results:disabled" in bugreport(make_app(broker_url="memory://"))


def test_the_short_name() -> None:
    assert appstr(make_app()).startswith("shop at 0x")
    assert appstr(SimpleNamespace(main=None)).startswith("__main__ at 0x")


def test_urls_and_settings_are_masked() -> None:
    assert sanitize_url("amqp://guest:guest@localhost//") == "amqp://guest:********@localhost//"
    assert sanitize_url("memory://") == "memory://"
    assert filter_hidden_settings({"A_TOKEN": "x", "A": "x"}) == {"A_TOKEN": "********", "A": "x"}


def test_an_app_is_made_again_with_its_changes() -> None:
    made = AppPickler()(
        lambda **given: make_app() if given["main"] == "shop" else None,  # type: ignore[arg-type]
        "shop", {"task_serializer": "yaml"}, "app", None, None, None, None, None, False, None,
    )  # fmt: skip

    assert made.conf.task_serializer == "yaml"
