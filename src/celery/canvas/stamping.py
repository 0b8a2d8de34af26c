"""Stamps: headers that a program gives to the tasks of a canvas, by name or by a visitor that walks over it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from celery.utils.functional import maybe_list

if TYPE_CHECKING:
    from celery.canvas.signature import Signature

Stamps = dict[str, Any]


class StampingVisitor(ABC):
    """Gives stamps to the signatures of a canvas as `Signature.stamp` walks over it.

    A hook is given the signature and, as keywords, the stamps from above it; what it returns is added to them for
    everything below.  `stamped_headers` among them lists the names that are stamps; where it is left out, all are.
    """

    @abstractmethod
    def on_signature(self, sig: Signature[Any], **headers: Any) -> Stamps | None:
        """Stamps for one task."""

    def on_group_start(self, group: Any, **headers: Any) -> Stamps | None:
        """Stamps for every task in a group."""
        return {}

    def on_group_end(self, group: Any, **headers: Any) -> None:  # noqa: B027 - may be left out
        """The group was walked over."""

    def on_chain_start(self, chain: Any, **headers: Any) -> Stamps | None:
        """Stamps for every task in a chain."""
        return {}

    def on_chain_end(self, chain: Any, **headers: Any) -> None:  # noqa: B027 - may be left out
        """The chain was walked over."""

    def on_chord_header_start(self, sig: Any, **headers: Any) -> Stamps | None:
        """Stamps for a chord: what a group that is its header would get, unless overridden."""
        return self.on_group_start(sig.header, **headers)

    def on_chord_header_end(self, sig: Any, **headers: Any) -> None:
        """The header was walked over."""
        self.on_group_end(sig.header, **headers)

    def on_chord_body(self, sig: Any, **headers: Any) -> Stamps | None:
        """Stamps for the body of a chord."""
        return {}

    def on_callback(self, callback: Any, **headers: Any) -> Stamps | None:
        """Stamps for a callback (`link`)."""
        return {}

    def on_errback(self, errback: Any, **headers: Any) -> Stamps | None:
        """Stamps for an error callback (`link_error`)."""
        return {}


def only_stamps(headers: Mapping[str, Any] | None) -> Stamps:
    """Those of *headers* that are stamps."""
    if not headers:
        return {}
    named = headers.get("stamped_headers")
    if named is None:
        return dict(headers)
    return {name: headers[name] for name in named if name in headers}


def add_stamps(headers: Mapping[str, Any], more: Mapping[str, Any] | None) -> Stamps:
    """*headers* and what a hook returned, as keywords for what is below."""
    stamps = {**only_stamps(headers), **only_stamps(more)}
    return {**stamps, "stamped_headers": list(stamps)} if stamps else {}


def put_stamps(options: dict[str, Any], stamps: Mapping[str, Any], *, append: bool) -> None:
    """Stamp a task through its *options*. With *append* a stamp that it has already becomes a list of all values."""
    if not stamps:
        return
    had = [*(options.get("stamped_headers") or ())]
    for name, value in stamps.items():
        if append and name in had:
            both = [*(maybe_list(options.get(name)) or []), *(maybe_list(value) or [])]
            options[name] = [item for place, item in enumerate(both) if item not in both[:place]]
        else:
            options[name] = value
    options["stamped_headers"] = [*had, *(name for name in stamps if name not in had)]


__all__ = ["StampingVisitor", "add_stamps", "only_stamps", "put_stamps"]
