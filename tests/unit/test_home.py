"""Where the embedded broker lives."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote

import pytest

from celery.app.home import embedded_url, state_folder
from celery.exceptions import ImproperlyConfigured


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.delenv("CELERY_HOME", raising=False)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_the_folder_that_is_named(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELERY_HOME", str(nowhere / "a" / "b"))

    assert state_folder() == nowhere / "a" / "b"
    assert (nowhere / "a" / "b").is_dir()


def test_the_folder_of_the_desktop(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(nowhere / "xdg"))

    assert state_folder() == nowhere / "xdg" / "celery"


def test_the_folder_of_the_user(nowhere: Path) -> None:
    assert state_folder() == nowhere / ".local" / "state" / "celery"
    assert state_folder().stat().st_mode & 0o077 == 0


def test_a_tilde(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELERY_HOME", "~/queue")

    assert state_folder() == nowhere / "queue"


def test_a_relative_folder_is_made_absolute(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(nowhere)
    monkeypatch.setenv("CELERY_HOME", "here")

    assert state_folder() == nowhere / "here"


def test_a_folder_that_cannot_be_made(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (nowhere / "file").write_text("")
    monkeypatch.setenv("CELERY_HOME", str(nowhere / "file" / "x"))

    with pytest.raises(ImproperlyConfigured, match=r"cannot be made \(Not a directory\): set CELERY_HOME to a folder"):
        state_folder()


def test_a_folder_that_cannot_be_written_to(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Root, as whom tests may run, can write to any folder.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    monkeypatch.setenv("CELERY_HOME", str(nowhere))

    with pytest.raises(ImproperlyConfigured, match="cannot be written to: set CELERY_HOME"):
        state_folder()


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("shop", "shop.db"),
        ("proj.celery", "proj.celery.db"),
        ("a b/c", "a_b_c.db"),
        ("..", "celery.db"),
        ("", "celery.db"),
    ],
)
def test_the_file_is_named_after_the_app(nowhere: Path, name: str, file: str) -> None:
    url = embedded_url(name)

    assert unquote(url) == f"sqlite:///{state_folder() / file}"
    assert url.startswith("sqlite:////")
