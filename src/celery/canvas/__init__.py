"""Signatures, and workflows that are made of them: chains, groups, chords, chunks and maps."""

from __future__ import annotations

from celery.canvas.chain import _chain, chain
from celery.canvas.chord import _chord, chord
from celery.canvas.group import group, maybe_unroll_group
from celery.canvas.maps import chunks, xmap, xstarmap
from celery.canvas.signature import (
    Signature,
    maybe_signature,
    maybe_subtask,
    signature,
    subtask,
    task_name_from,
)
from celery.canvas.stamping import StampingVisitor

__all__ = [
    "Signature",
    "StampingVisitor",
    "_chain",
    "_chord",
    "chain",
    "chord",
    "chunks",
    "group",
    "maybe_signature",
    "maybe_subtask",
    "maybe_unroll_group",
    "signature",
    "subtask",
    "task_name_from",
    "xmap",
    "xstarmap",
]
