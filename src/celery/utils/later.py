"""Names of Celery that a later release brings: whoever uses one is told so in a sentence."""

from __future__ import annotations

LATER = {
    "bootsteps": "bootsteps",
    "security": "signed messages",
}
"""Name -> what it belongs to."""
_IMPORTING = {"_frozen_importlib", "importlib._bootstrap"}


def comes_later(owner: str, name: str, asker: str | None = None) -> Exception:
    """The error for *name* of *owner*, which the module *asker* asks for."""
    sentence = f"{owner}.{name} comes with a later release of Celeriac, which brings {LATER[name]}."
    # `from celery import chain` first asks whether there is such a name, and would put its own words in place of these.
    return ImportError(sentence) if asker in _IMPORTING else AttributeError(sentence)


__all__ = ["LATER", "comes_later"]
