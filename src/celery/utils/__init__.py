"""Small words that any program could use."""

# No `from __future__ import annotations`: that name would hide the module `celery.utils.annotations`.
from celery.utils.functional import chunks, memoize, noop
from celery.utils.imports import gen_task_name, import_from_cwd, instantiate, qualname, symbol_by_name
from celery.utils.log import LOG_LEVELS
from celery.utils.nodenames import nodename, nodesplit, worker_direct
from celery.utils.objects import cached_property
from celery.utils.uuids import uuid

get_cls_by_name = symbol_by_name
get_full_cls_name = qualname
gen_unique_id = uuid

__all__ = [
    "LOG_LEVELS",
    "cached_property",
    "chunks",
    "gen_task_name",
    "gen_unique_id",
    "get_cls_by_name",
    "get_full_cls_name",
    "import_from_cwd",
    "instantiate",
    "memoize",
    "nodename",
    "nodesplit",
    "noop",
    "uuid",
    "worker_direct",
]
