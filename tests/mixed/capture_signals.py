"""Write `signals.json` beside this script: the signals of a worker of the original Celery, as `test_signals` has them.

Run by hand, with the URL of an empty Redis database and the Python of an environment that holds the original:

    <environment>/bin/python tests/mixed/capture_signals.py redis://localhost:6379/0
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
WORKER = ["-m", "celery", "-A", "signals_app", "worker", "-c", "1", "-n", "w@h", "-l", "INFO"]


def capture(url: str, log: Path) -> str:
    settings = json.dumps({"broker_url": url, "result_backend": url})
    env = {**os.environ, "MIXED_SETTINGS": settings, "MIXED_LOG": str(log), "C_FORCE_ROOT": "1"}
    env["PYTHONPATH"] = str(HERE / "application")
    log.touch()
    worker = subprocess.Popen([sys.executable, *WORKER], env=env)
    try:
        while "worker_ready" not in log.read_text():
            time.sleep(0.1)
        drive = f"import signals_app; signals_app.drive({worker.pid})"
        subprocess.run([sys.executable, "-c", drive], env={**env, "SIGNALS_ROLE": "client"}, check=True)
        worker.wait(30)
    finally:
        worker.kill()
    tell = "import signals_app; print(signals_app.printed())"
    return subprocess.run([sys.executable, "-c", tell], env=env, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        (HERE / "signals.json").write_text(capture(sys.argv[1], Path(folder, "signals.log")))
