"""What installed distributions declare is found as `importlib.metadata` finds it, and mostly without it."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from celery.utils.plugins import entry_points, version

GROUP = "celery.test_plugins"
ENTRIES = f"[console_scripts]\nx = x:main\n\n[{GROUP}]\nmine = some.module:Name\n"


def distribution(folder: Path, name: str = "some_pack-1.5.dist-info", entries: str = ENTRIES) -> Path:
    about = folder / name
    about.mkdir(parents=True)
    title = "METADATA" if name.endswith(".dist-info") else "PKG-INFO"
    (about / title).write_text("Metadata-Version: 2.1\nName: some_pack\nVersion: 1.5\n")
    (about / "entry_points.txt").write_text(entries)
    return about


def found(group: str = GROUP) -> list[tuple[str, str]]:
    return [(entry.name, entry.value) for entry in entry_points(group)]


@pytest.mark.parametrize("name", ["some_pack-1.5.dist-info", "some_pack.egg-info"])
def test_a_declared_group_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    assert found() == []
    distribution(tmp_path, name)
    monkeypatch.syspath_prepend(tmp_path)
    assert found() == [("mine", "some.module:Name")]
    assert found("celery.test_other_plugins") == []


def test_the_current_folder_is_looked_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distribution(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    assert found() == [("mine", "some.module:Name")]


def test_an_archive_is_looked_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    about = distribution(tmp_path / "plain")
    archive = tmp_path / "packages.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in about.iterdir():
            file.write(path, f"{about.name}/{path.name}")
    monkeypatch.syspath_prepend(archive)
    assert found() == [("mine", "some.module:Name")]


def test_finders_of_others_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    class Memory(metadata.Distribution):
        def read_text(self, filename: str) -> str | None:
            return {"entry_points.txt": ENTRIES, "METADATA": "Name: memory\nVersion: 2"}.get(filename)

        def locate_file(self, path: object) -> Path:
            raise FileNotFoundError(path)

    class Finder:
        @staticmethod
        def find_spec(*_: object) -> None:
            return None

        @staticmethod
        def find_distributions(_: object) -> list[metadata.Distribution]:
            return [Memory()]

    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Finder])
    assert found() == [("mine", "some.module:Name")]


def test_versions_are_those_of_the_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("msgspec", "kombu", "celery"):
        assert version(name) == metadata.version(name)
    assert version("some_pack") is None
    distribution(tmp_path, "some_pack.egg-info")
    monkeypatch.syspath_prepend(tmp_path)
    assert version("some_pack") == "1.5"


def test_where_there_is_nothing_nothing_is_loaded() -> None:
    code = (
        "import sys, json; from celery import drivers; from celery.utils.plugins import version\n"
        "drivers.known('broker'); version('celery')\n"
        "print(json.dumps([name for name in ('importlib.metadata', 'email', 'zipfile') if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
