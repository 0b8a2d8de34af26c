"""Loggers and files that are loggers."""

from __future__ import annotations

import logging
import sys
from typing import Any

import pytest

from celery.utils.log import (
    ColorFormatter,
    LoggingProxy,
    base_logger,
    get_logger,
    get_task_logger,
    in_sighandler,
    iter_open_logger_fds,
    logger_isa,
    mlevel,
    task_logger,
)
from celery.utils.term import colored


def test_the_family_of_loggers() -> None:
    assert logger_isa(get_logger("some.module.of.others"), base_logger)
    assert logger_isa(get_task_logger("proj.tasks"), task_logger)
    assert logger_isa(task_logger, base_logger)
    assert not logger_isa(logging.getLogger("stranger"), base_logger)
    for name in ("celery", "celery.task"):
        with pytest.raises(RuntimeError, match="reserved"):
            get_task_logger(name)


def test_a_logger_that_is_its_own_parent_is_told() -> None:
    one, two = logging.Logger("one"), logging.Logger("two")  # noqa: LOG001 - of no family
    one.parent, two.parent = two, one
    with pytest.raises(RuntimeError, match="its own parent"):
        logger_isa(one, base_logger)


@pytest.mark.parametrize(
    ("level", "number"), [("info", 20), ("WARN", 30), (10, 10), (None, None), (0, 0), ("FATAL", 50)]
)
def test_levels(level: Any, number: Any) -> None:
    assert mlevel(level) == number


def test_an_unknown_level_says_which_are_known() -> None:
    with pytest.raises(KeyError, match="DEBUG"):
        mlevel("loud")


class Keeper(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def logger() -> logging.Logger:
    made = logging.Logger("redirected", logging.DEBUG)  # noqa: LOG001 - gone after the test
    made.addHandler(Keeper())
    return made


def lines(logger: logging.Logger) -> list[tuple[int, str]]:
    keeper = logger.handlers[0]
    assert isinstance(keeper, Keeper)
    return [(record.levelno, record.getMessage()) for record in keeper.records]


def test_what_is_printed_is_logged(logger: logging.Logger) -> None:
    proxy = LoggingProxy(logger, "info")
    print("hello", 5, file=proxy)
    proxy.writelines(["a\n", "\n", "b"])
    proxy.write(b"ytes")
    assert lines(logger) == [(20, "hello 5"), (20, "a")]
    proxy.flush()
    proxy.write("one\ntwo\nthr")
    assert lines(logger)[2:] == [(20, "bytes"), (20, "one\ntwo")]
    assert not proxy.isatty()
    proxy.close()
    assert proxy.write("late\n") == 0
    assert lines(logger)[4:] == [(20, "thr")]


def test_a_handler_that_prints_does_not_go_round_for_ever(logger: logging.Logger) -> None:
    proxy = LoggingProxy(logger)

    class Chatty(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            print("handling", file=proxy)

    logger.addHandler(Chatty())
    proxy.write("once\n")
    assert [text for _, text in lines(logger)] == ["once"]


def test_a_broken_handler_is_reported_on_the_real_error_stream(
    logger: logging.Logger, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "__stderr__", sys.stderr)

    class Broken(logging.StreamHandler[Any]):
        def format(self, record: logging.LogRecord) -> str:
            raise OSError("disk full")

    logger.addHandler(Broken())
    LoggingProxy(logger).write("x\n")
    assert "Cannot write a log record of redirected: OSError: disk full" in capsys.readouterr().err


def test_our_loggers_are_silent_in_a_signal_handler() -> None:
    keeper = Keeper()
    task_logger.addHandler(keeper)
    try:
        with in_sighandler():
            task_logger.error("inside")
        task_logger.error("outside")
    finally:
        task_logger.removeHandler(keeper)
    assert [record.getMessage() for record in keeper.records] == ["outside"]


def test_colours_go_by_level() -> None:
    record = logging.LogRecord("n", logging.ERROR, "p", 1, "broken %s", ("é",), None)
    assert ColorFormatter("%(message)s").format(record) == str(colored().red("broken é"))
    assert ColorFormatter("%(message)s", use_color=False).format(record) == "broken é"


def test_nested_colours() -> None:
    text = colored().red("a ", colored().bold("b"), " c")
    assert text.no_color() == "a b c"
    assert str(text).startswith("\033[1;31ma \033[1mb\033[0m\033[1;31m c")
    assert str(text).endswith("\033[0m")
    assert str(colored(enabled=False).red("x")) == "x"
    assert colored().red("x") + "y" == str(colored().red("x")) + "y"


def test_open_log_files(tmp_path: Any) -> None:
    handler = logging.FileHandler(tmp_path / "x.log")
    logging.getLogger("celery.test-fds").addHandler(handler)
    try:
        assert handler.stream in list(iter_open_logger_fds())
    finally:
        logging.getLogger("celery.test-fds").removeHandler(handler)
        handler.close()
