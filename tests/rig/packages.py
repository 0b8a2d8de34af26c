"""Packages that others made for Celery, in an environment of their own, running on this checkout."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

from rig.original import PATIENCE, cache

ROOT = Path(__file__).parents[2]
PACKAGES = (
    "sentry-sdk==2.75.0", "opentelemetry-sdk", "opentelemetry-instrumentation-celery==0.66b2",
    "celery-singleton==0.3.1", "celery-once==3.0.1", "six",
    "pytest-celery==1.3.0", "django-celery-results==2.6.0", "django",
)  # fmt: skip
ALONE = ("celery-batches==0.11",)
"""Its own word is that Celery must be older than 5.7; it works with it all the same."""


def packages_python() -> Path:
    """The interpreter of an environment with these packages and what this checkout requires, made if need be.

    Code of this package comes from the checkout (put its `src` on PYTHONPATH); only its metadata is installed.
    Raises LookupError with one line where that cannot be.
    """
    key = sha256(repr((PACKAGES, ALONE, (ROOT / "pyproject.toml").read_text())).encode()).hexdigest()[:12]
    folder = cache("packages").parent / f"packages-{key}-py{sys.version_info.major}.{sys.version_info.minor}"
    python = folder / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with (folder.parent / f"{folder.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (folder / "complete").exists():
                shutil.rmtree(folder, ignore_errors=True)
                _run(sys.executable, "-m", "venv", str(folder))
                _run(*pip, f"{ROOT}[redis,compat]", *PACKAGES)
                _run(*pip, "--no-deps", *ALONE)
                (folder / "complete").touch()
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        reason = said.strip().splitlines()[-1] if said.strip() else type(error).__name__
        raise LookupError(f"packages made for Celery cannot be installed into {folder}: {reason}") from error
    return python


def _run(*command: str) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=PATIENCE, env=env)
