"""The repository says what is true: versions, targets, links and generated pages agree with each other."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import celery
from celery.worker.banner import our_version

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def newest_release() -> str:
    heading = re.search(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert heading is not None
    return heading[1]


def test_the_version_is_the_newest_heading_of_the_changelog() -> None:
    assert PROJECT["version"] == f"{celery.__version__}+celeriac.{newest_release()}"
    assert our_version() == newest_release()


def test_make_alone_lists_the_targets() -> None:
    listed = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert re.findall(r"make (\w+)", listed) == ["demo", "test", "check", "chaos", "soak", "bench", "docs", "clean"]


def test_ci_runs_what_everybody_runs() -> None:
    assert (ROOT / ".ci" / "run").read_text().splitlines()[-1] == "exec make test"


def test_the_development_group_is_printed_for_pip() -> None:
    printed = subprocess.run(
        [sys.executable, "tools/group.py", "dev"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert printed == tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]["dev"]


def test_a_server_is_found_or_said_how_to_get(tmp_path: Path) -> None:
    """On a machine without package manager: nothing that is on PATH but what is put here."""

    def ask(*names: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "tools" / "servers.py"), *names]
        return subprocess.run(command, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False)

    missing = ask("redis")
    assert (missing.returncode, missing.stdout) == (1, "redis is not installed: apt-get install redis-server\n")
    program = tmp_path / "redis-server"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    found = ask("redis")
    assert (found.returncode, found.stdout) == (0, f"redis: {program}\n")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_documentation_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}, which does not exist"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_the_documentation_exist(page: Path) -> None:
    text = page.read_text()
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for target in re.findall(r"^\$ make (\w+)", text, re.MULTILINE):
        assert target in targets, f"{page.name} says 'make {target}'"
    from celery.bin.celery import COMMANDS

    for command in re.findall(r"^\$ celery(?: -A [\w.:]+)? ([a-z]\w*)", text, re.MULTILINE):
        assert command in {*COMMANDS, "report"}, f"{page.name} says 'celery {command}'"


def test_generated_pages_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, "tools/docs.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


GATES = """
import os, subprocess, threading, pytest

def test_skips(): pytest.skip("no server here")
def test_cannot(): pytest.skip("capability: delay")
def test_passes(): pass
left, child = threading.Event(), []
def test_leaves_a_process(): child.append(subprocess.Popen(["sleep", "60"]))
def test_leaves_a_thread(): threading.Thread(target=left.wait, args=(60,), name="forgotten").start()
def test_ends_them(): left.set(); child[0].kill(); child[0].wait()
"""


@pytest.mark.parametrize("ci", ["", "true"])
def test_a_skip_under_ci_and_whatever_is_left_running_are_failures(tmp_path: Path, ci: str) -> None:
    conftest = (ROOT / "tests" / "conftest.py").read_text().replace("GRACE = 30.0", "GRACE = 0.2")
    (tmp_path / "conftest.py").write_text(conftest)
    (tmp_path / "test_gates.py").write_text(GATES)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-rA", "-p", "no:cacheprovider", "-p", "no:randomly", "--rootdir", ".", "."],
        cwd=tmp_path,
        env={**os.environ, "CI": ci, "PYTHONPATH": str(ROOT / "tests")},
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    assert "ERROR test_gates.py::test_leaves_a_process" in done, done
    assert "(sleep 60 )" in done or "(sleep 60)" in done
    assert "ERROR test_gates.py::test_leaves_a_thread" in done
    assert "'forgotten'" in done
    assert "PASSED test_gates.py::test_passes" in done
    assert ("FAILED test_gates.py::test_skips - skipped under CI: no server here" in done) is bool(ci)
    assert "capability: delay" in done
    assert "FAILED test_gates.py::test_cannot" not in done
