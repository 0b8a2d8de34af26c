"""A producer that lives as long as its fleet: runs each line of its input, JSON text of Python, beside the application.

It answers with a line for each: what the code printed, and its traceback if it raised.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import traceback

import oracle_app

for line in sys.stdin:
    printed, trouble = io.StringIO(), ""
    try:
        with contextlib.redirect_stdout(printed):
            exec(json.loads(line), dict(vars(oracle_app)))
    except Exception:  # noqa: BLE001 - it is raised where the answer is read
        trouble = traceback.format_exc()
    sys.stdout.write(json.dumps([printed.getvalue(), trouble]) + "\n")
    sys.stdout.flush()
