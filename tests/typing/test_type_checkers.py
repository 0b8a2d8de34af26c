"""The public types hold under mypy and pyright: what is right passes, what is wrong is reported, line by line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rig.original import environment

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CI = os.environ.get("CI", "").lower() in {"1", "true", "yes"}


def marked(path: Path) -> set[int]:
    return {number for number, line in enumerate(path.read_text().splitlines(), 1) if "# wrong" in line}


def reported_by_mypy(*paths: Path, cache: Path) -> dict[str, dict[int, str]]:
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--show-absolute-path",
               "--cache-dir", str(cache), "--config-file", str(ROOT / "pyproject.toml"), *map(str, paths)]  # fmt: skip
    run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if "No module named mypy" in run.stderr:
        skip_or_fail("mypy")
    assert run.returncode in {0, 1}, run.stdout + run.stderr
    found: dict[str, dict[int, str]] = {path.name: {} for path in paths}
    for line in run.stdout.splitlines():
        match = re.match(r"(.+?):(\d+): error: (.*)", line)
        if match and Path(match[1]).name in found:
            found[Path(match[1]).name][int(match[2])] = match[3]
    return found


def reported_by_pyright(*paths: Path) -> dict[str, dict[int, str]]:
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, *map(str, paths)]
    try:
        run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=280)
        answer = json.loads(run.stdout)
    except (subprocess.TimeoutExpired, json.JSONDecodeError):
        skip_or_fail("pyright")
    found: dict[str, dict[int, str]] = {path.name: {} for path in paths}
    for item in answer["generalDiagnostics"]:
        name = Path(item["file"]).name
        if item["severity"] == "error" and name in found:
            found[name][item["range"]["start"]["line"] + 1] = item["message"]
    return found


def skip_or_fail(tool: str) -> None:
    reason = f"{tool} cannot start: pip install {tool} (pyright fetches its own program at its first run)"
    if CI:
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(os.environ.get("MYPY_CACHE_DIR") or tmp_path_factory.mktemp("mypy"))


@pytest.mark.timeout(300)
def test_mypy_understands_tasks(cache: Path) -> None:
    right, wrong = HERE / "right.py", HERE / "wrong.py"
    found = reported_by_mypy(right, wrong, cache=cache)
    assert found["right.py"] == {}
    assert set(found["wrong.py"]) == marked(wrong), found["wrong.py"]


@pytest.mark.timeout(300)
def test_pyright_understands_tasks() -> None:
    right, wrong = HERE / "right.py", HERE / "wrong.py"
    found = reported_by_pyright(right, wrong)
    assert found["right.py"] == {}
    assert set(found["wrong.py"]) == marked(wrong), found["wrong.py"]


STUBBED = HERE / "stubbed.py"


@pytest.mark.timeout(300)
def test_a_program_written_for_other_stubs_passes(cache: Path) -> None:
    assert reported_by_mypy(STUBBED, cache=cache) == {"stubbed.py": {}}
    assert reported_by_pyright(STUBBED) == {"stubbed.py": {}}


def test_a_program_written_for_other_stubs_runs() -> None:
    done = subprocess.run([sys.executable, str(STUBBED)], capture_output=True, text=True, check=False, timeout=200)
    assert done.stdout.strip() == "[3, 7, [0, 2, 4], 3, 11, 'retries: 0'] 2 3.0", done.stderr


@pytest.mark.timeout(600)  # it may install them
def test_it_is_one_that_those_stubs_pass(tmp_path: Path) -> None:
    try:
        python = environment("celery-types-0.26.0", "celery-types==0.26.0", "mypy==1.18.2", "celery==5.7.0")
    except LookupError as error:
        pytest.skip(str(error))
    command = [str(python), "-m", "mypy", "--cache-dir", str(tmp_path), "--config-file", os.devnull, str(STUBBED)]
    run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert "Success" in run.stdout, run.stdout + run.stderr
