"""`app.log`: who configures what, formats, colours, redirection and JSON."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from celery import Celery, signals
from celery.utils.log import get_task_logger


@pytest.fixture
def app() -> Celery:
    return Celery("logs", broker="memory://", set_as_current=False)


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


def test_lines_name_level_and_process(app: Celery, stream: io.StringIO) -> None:
    assert app.log.setup_logging_subsystem("INFO", stream) == []
    logging.getLogger("celery.worker").info("ready")
    logging.getLogger("celery.worker").debug("not said")
    assert stream.getvalue().endswith(": INFO/MainProcess] ready\n")
    assert "not said" not in stream.getvalue()


def test_lines_of_a_task_name_it(app: Celery, stream: io.StringIO) -> None:
    @app.task(name="speak")
    def speak() -> None:
        get_task_logger("anything").warning("from inside")

    app.log.setup_logging_subsystem("INFO", stream)
    get_task_logger("anything").warning("from outside")
    task_id = speak.apply().id
    outside, inside = (line for line in stream.getvalue().splitlines() if "side" in line)
    assert outside.endswith("WARNING/MainProcess] ???[???]: from outside")
    assert inside.endswith(f"WARNING/MainProcess] speak[{task_id}]: from inside")


def test_formats_come_from_the_settings(app: Celery, stream: io.StringIO) -> None:
    app.conf.worker_log_format = "worker %(asctime)s %(message)s"
    app.conf.worker_log_datefmt = "day"
    app.conf.worker_task_log_format = "task %(message)s"
    app.log.setup_logging_subsystem("INFO", stream)
    logging.getLogger("x").info("one")
    get_task_logger("y").info("two")
    assert stream.getvalue() == "worker day one\ntask two\n"


def test_it_is_set_up_once(app: Celery, stream: io.StringIO) -> None:
    app.log.setup_logging_subsystem("INFO", stream)
    assert app.log.already_setup
    assert app.log.setup_logging_subsystem("INFO", stream) is None
    assert Celery("other", broker="memory://", set_as_current=False).log.setup("DEBUG") is None


def test_a_receiver_of_setup_logging_does_it_alone(app: Celery) -> None:
    said: list[dict[str, Any]] = []

    def mine(**facts: Any) -> str:
        said.append(facts)
        return "done"

    signals.setup_logging.connect(mine)
    try:
        before = logging.root.handlers[:]
        assert app.log.setup("INFO", redirect_stdouts=True) == [(mine, "done")]
        assert logging.root.handlers == before
        assert said[0].keys() >= {"loglevel", "logfile", "format", "colorize"}
        assert said[0]["loglevel"] == logging.INFO
    finally:
        signals.setup_logging.disconnect(mine)


def test_receivers_may_add_to_the_loggers(app: Celery, stream: io.StringIO) -> None:
    seen: dict[str, Any] = {}

    def root(logger: logging.Logger, **facts: Any) -> None:
        seen["root"] = (logger, facts["format"])

    def task(logger: logging.Logger, **facts: Any) -> None:
        seen["task"] = (logger, facts["format"])

    signals.after_setup_logger.connect(root)
    signals.after_setup_task_logger.connect(task)
    try:
        app.log.setup_logging_subsystem("INFO", stream)
    finally:
        signals.after_setup_logger.disconnect(root)
        signals.after_setup_task_logger.disconnect(task)
    assert seen["root"] == (logging.root, app.conf.worker_log_format)
    assert seen["task"] == (logging.getLogger("celery.task"), app.conf.worker_task_log_format)


def test_the_root_logger_is_taken_over_only_if_allowed(app: Celery, stream: io.StringIO) -> None:
    mine = logging.StreamHandler(io.StringIO())
    logging.root.handlers = [mine]
    app.conf.worker_hijack_root_logger = False
    app.log.setup_logging_subsystem("INFO", stream)
    assert logging.root.handlers == [mine]

    app.log.already_setup = False
    app.conf.worker_hijack_root_logger = True
    app.log.setup_logging_subsystem("INFO", stream)
    assert mine not in logging.root.handlers
    assert len(logging.root.handlers) == 1


def test_a_file_is_named_after_the_node(app: Celery, tmp_path: Path) -> None:
    app.log.setup("INFO", str(tmp_path / "%n.log"), hostname="w1@example")
    logging.getLogger("x").info("written")
    for handler in [*logging.root.handlers, *logging.getLogger("celery.task").handlers]:
        handler.close()
    assert (tmp_path / "w1.log").read_text().endswith("written\n")
    assert os.environ["CELERY_LOG_LEVEL"] == "20"


def test_what_is_printed_becomes_a_record(app: Celery, stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    app.log.setup_logging_subsystem("INFO", stream)
    app.log.redirect_stdouts("ERROR")
    print("printed")
    sys.stderr.write("complained\n")
    lines = stream.getvalue().splitlines()
    assert lines[0].endswith("ERROR/MainProcess] printed")
    assert lines[1].endswith("ERROR/MainProcess] complained")


def test_colours_are_for_terminals(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert not app.log.supports_color()
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert app.log.supports_color()
    assert not app.log.supports_color(logfile="worker.log")
    assert not app.log.supports_color(True, "worker.log")
    assert not app.log.supports_color(False)
    monkeypatch.setenv("NO_COLOR", "1")
    assert not app.log.supports_color()


def test_errors_are_coloured(app: Celery, stream: io.StringIO) -> None:
    app.log.setup_logging_subsystem("INFO", stream, colorize=True)
    logging.getLogger("x").error("red")
    assert "\x1b[" in stream.getvalue()


def test_json_lines(app: Celery, stream: io.StringIO) -> None:
    @app.task(name="speak")
    def speak() -> None:
        get_task_logger("anything").info("working")

    app.conf.worker_log_json = True
    app.log.setup_logging_subsystem("INFO", stream)
    try:
        raise ValueError("two\nlines")
    except ValueError:
        logging.getLogger("x").exception("it failed: %s", "why")
    task_id = speak.apply().id
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    failed = next(line for line in lines if line["logger"] == "x")
    assert failed["message"] == "it failed: why"
    assert failed["level"] == "ERROR"
    assert failed["process"] == "MainProcess"
    assert failed["time"].endswith("+00:00")
    assert failed["exception"].endswith("ValueError: two\nlines")
    assert "task_id" not in failed
    working = next(line for line in lines if line["message"] == "working")
    assert (working["task_id"], working["task_name"]) == (task_id, "speak")
