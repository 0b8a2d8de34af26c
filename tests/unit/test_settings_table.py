"""The table of settings is Celery's, with types, defaults and old names; the page about it is current."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

from celery.app.defaults import (
    CELERY_OPTIONS,
    DEFAULTS,
    NAMESPACES,
    OPTIONS,
    OURS,
    SETTING_KEYS,
    Option,
    find,
    find_deprecated_settings,
    flatten,
)

# Captured from Celery 5.7.0.
GOLDEN = json.loads(Path(__file__).with_name("golden").joinpath("settings.json").read_text())
DOCS = Path(__file__).parents[2] / "docs"


def test_all_names_of_celery_are_there() -> None:
    assert len(GOLDEN) == 207
    assert set(CELERY_OPTIONS) == set(GOLDEN)
    assert not OURS.keys() & GOLDEN.keys()
    assert set(OPTIONS) == SETTING_KEYS == DEFAULTS.keys() == GOLDEN.keys() | OURS.keys()


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_type_default_and_old_name(name: str) -> None:
    option, golden = CELERY_OPTIONS[name], GOLDEN[name]

    assert option.type == {"str": "string"}.get(golden["type"], golden["type"])
    assert repr(option.default) == golden["default"]
    assert option.old == golden["old"]


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_every_setting_says_what_it_is_for_and_accepts_its_default(name: str) -> None:
    option = OPTIONS[name]

    assert option.help.endswith(".")
    assert "|" not in option.help
    assert option.to_python(option.default) == option.default


def test_flatten() -> None:
    assert dict(flatten({"a": {"b": Option(1)}, "c": Option(2)})).keys() == {"a_b", "c"}
    assert dict(flatten(NAMESPACES)) == CELERY_OPTIONS


def test_find() -> None:
    assert find("always_eager")[:2] == ("task", "always_eager")
    assert find("url", "database")[:2] == ("database", "url")
    assert find("TASK_ACKS_LATE")[:2] == (None, "task_acks_late")
    assert find("enable_utc")[:2] == (None, "enable_utc")
    assert find("worker_lease").type is OURS["worker_lease"]
    assert isinstance(find("worker").type, dict)
    with pytest.raises(KeyError):
        find("nope")


def test_find_deprecated_settings() -> None:
    assert find_deprecated_settings({"CELERY_ACKS_LATE": 1, "task_acks_late": 2, "OTHER": 3}) == {"CELERY_ACKS_LATE"}


def test_the_page_is_current() -> None:
    render = runpy.run_path(str(DOCS / "write_settings.py"))["render"]

    assert (DOCS / "settings.md").read_text() == render(), "run python docs/write_settings.py"
