"""What `-A` may name, and what is said when it leads nowhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from celery.app.base import Celery
from celery.app.find import find_app
from celery.exceptions import ImproperlyConfigured

APP = "from celery import Celery\n{name} = Celery('{main}', set_as_current=False)\n"


def app_as(name: str, main: str = "found") -> str:
    return APP.format(name=name, main=main)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with modules to find; the path is as a console script has it: without that folder."""
    before = set(sys.modules)
    files = {
        "by_app.py": app_as("app"),
        "by_celery.py": app_as("celery"),
        "by_other.py": app_as("queue"),
        "both.py": app_as("celery", "second") + app_as("app"),
        "subclass.py": app_as("_base")
        + "class Mine(Celery): pass\ndel _base\nmine = Mine('found', set_as_current=False)\n",
        "without.py": "app = 3\n",
        "broken.py": "import no_such_library\n",
        "raising.py": "raise KeyError('inside')\n",
        "package/__init__.py": "",
        "package/celery.py": app_as("app"),
        "package/tasks.py": "def work(): pass\n",
        "django_like/__init__.py": "from .celery import app as celery_app\n",
        "django_like/celery.py": app_as("app"),
        "submodule_as_attribute/__init__.py": "from . import celery\n",
        "submodule_as_attribute/celery.py": app_as("app"),
        "in_init/__init__.py": app_as("app"),
        "empty/__init__.py": "",
        "broken_inside/__init__.py": "",
        "broken_inside/celery.py": "import no_such_library\n",
        "holder.py": app_as("one") + app_as("two", "second") + "class Box:\n    app = two\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in {"", str(tmp_path)}])
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in {file.partition("/")[0].removesuffix(".py") for file in files}:
            del sys.modules[name]


@pytest.mark.parametrize(
    "spec",
    [
        "by_app",
        "by_app:app",
        "by_app.app",
        "by_app:",
        "by_celery",
        "by_other",
        "by_other:queue",
        "by_other.queue",
        "both",
        "subclass",
        "package",
        "package.celery",
        "package.celery:app",
        "package.celery.app",
        "package:celery",
        "django_like",
        "django_like:celery_app",
        "django_like.celery_app",
        "submodule_as_attribute",
        "in_init",
        "in_init:app",
        "holder",
        " by_app ",
    ],
)
def test_what_may_be_named(project: Path, spec: str) -> None:
    app = find_app(spec)

    assert isinstance(app, Celery)
    assert app.main == "found"


def test_an_attribute_of_an_attribute(project: Path) -> None:
    assert find_app("holder:Box.app").main == "second"


def test_an_application_is_returned_as_it_is() -> None:
    app = Celery("x", set_as_current=False)

    assert find_app(app) is app


def test_the_current_folder_is_importable_from_then_on(project: Path) -> None:
    find_app("by_app")

    assert sys.path[0] == str(project)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nowhere", "The application 'nowhere' cannot be found: there is no module 'nowhere' in"),
        ("nowhere:app", "there is no module 'nowhere' in"),
        ("nowhere.celery", "there is no module 'nowhere' in"),
        (
            "by_app:queue",
            "The module 'by_app' ({folder}/by_app.py) was imported, but 'queue' is not in it: try -A by_app:app.",
        ),
        ("package.nope", "The module 'package' ({folder}/package/__init__.py) was imported, but 'nope' is not in it"),
        ("empty", "was imported, but no Celery application is in it: name it by -A package.module:attribute."),
        ("without", "The module 'without' ({folder}/without.py) was imported, but no Celery application is in it"),
        ("without:app", "'without:app' is 3, and that is no Celery application."),
        ("package.tasks", "The module 'package.tasks' ({folder}/package/tasks.py) was imported, but no Celery appl"),
        ("by_app.py", "'by_app.py' is a file: give the name of the module, -A by_app."),
        ("package/celery.py", "'package/celery.py' is a file: give the name of the module, -A package.celery."),
        ("", "The application has no name"),
    ],
)
def test_what_leads_nowhere(project: Path, spec: str, message: str) -> None:
    with pytest.raises(ImproperlyConfigured) as raised:
        find_app(spec)

    assert message.format(folder=project) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("spec", ["celery:app", "celery.app"])
def test_a_file_that_is_called_as_this_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(ImproperlyConfigured, match="name it by -A package"):
        find_app(spec)
    (tmp_path / "celery.py").write_text(app_as("app"))
    with pytest.raises(ImproperlyConfigured, match=r"your celery\.py has the name of this package"):
        find_app(spec)


@pytest.mark.parametrize("spec", ["broken", "broken:app", "broken.app", "broken_inside", "broken_inside.celery"])
def test_what_a_module_lacks_itself_is_not_taken_for_a_wrong_name(project: Path, spec: str) -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_library"):
        find_app(spec)


def test_an_error_inside_the_module(project: Path) -> None:
    with pytest.raises(KeyError, match="inside"):
        find_app("raising")
