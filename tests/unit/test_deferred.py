"""Modules that are imported at their first use."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from celery.utils.deferred import deferred


def test_a_module_is_imported_when_something_of_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "seldom_needed.py").write_text("answer = 42\n")
    monkeypatch.syspath_prepend(tmp_path)
    module = deferred("seldom_needed")
    assert "seldom_needed" not in sys.modules
    try:
        assert module.answer == 42
        sys.modules["seldom_needed"].__dict__["answer"] = 43
        assert module.answer == 43
        assert repr(module) == "<deferred module 'seldom_needed'>"
    finally:
        del sys.modules["seldom_needed"]


def test_what_is_not_there_says_so_at_its_first_use() -> None:
    module = deferred("not_there_at_all")
    with pytest.raises(ModuleNotFoundError, match="not_there_at_all"):
        module.anything  # noqa: B018 - the reading is what is tested
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        deferred("os").nothing_of_the_kind  # noqa: B018
