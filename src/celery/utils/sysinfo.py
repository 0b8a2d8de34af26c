"""What the machine has: processors we may use, load, disk space."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from celery.utils.objects import cached_property

AUTO_CONCURRENCY = "auto"
CGROUP_ROOT = "/sys/fs/cgroup"
PROC_SELF_CGROUP = "/proc/self/cgroup"


def load_average() -> tuple[float, ...]:
    """Load of the last 1, 5 and 15 minutes, rounded up to hundredths; zeros where the system does not say."""
    try:
        return tuple(math.ceil(load * 100) / 100 for load in os.getloadavg())
    except (AttributeError, OSError):
        return (0.0, 0.0, 0.0)


def is_auto_concurrency(value: Any) -> bool:
    """Whether *value* asks for as many as the machine has: `auto`, in any case."""
    return isinstance(value, str) and value.strip().lower() == AUTO_CONCURRENCY


def available_cpu_count() -> int:
    """Processors this process may run on: its affinity where the system has one, otherwise all there are."""
    try:
        return len(os.sched_getaffinity(0)) or 1
    except (AttributeError, OSError):
        return os.cpu_count() or 1


def cgroup_cpu_quota() -> float | None:
    """Processors' worth of time that the container may use; None without a limit. The tightest of nested limits."""
    quotas = [quota for folder in _cgroup_folders() if (quota := _quota_of(folder)) is not None]
    return min(quotas, default=None)


def _cgroup_folders() -> Iterator[Path]:
    """Where limits may stand: our own group and every one above it, in version 2 and in version 1."""
    root = Path(CGROUP_ROOT)
    try:
        lines = Path(PROC_SELF_CGROUP).read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = root / "cpu" if controllers else root
        group = base / path.lstrip("/")
        yield from (folder for folder in (group, *group.parents) if folder == base or base in folder.parents)
    yield from (root, root / "cpu")


def _quota_of(folder: Path) -> float | None:
    try:
        allowed, period = (folder / "cpu.max").read_text().split()[:2]
    except (OSError, ValueError):
        try:
            allowed = (folder / "cpu.cfs_quota_us").read_text().strip()
            period = (folder / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    if not allowed.isdigit() or not period.isdigit() or not int(allowed) or not int(period):
        return None  # `max` and `-1`: no limit
    return int(allowed) / int(period)


class CpuBudget(NamedTuple):
    """`count` processes to run, of the `available` processors and the `quota` of the container."""

    count: int  # type: ignore[assignment]  # the public name, over the method of tuple
    available: int
    quota: float | None


def cpu_budget(use_cgroup_quota: bool = True) -> CpuBudget:
    """How many processes the machine, or the container's quota (rounded up), has room for; at least one."""
    available = available_cpu_count()
    quota = cgroup_cpu_quota() if use_cgroup_quota else None
    count = available if quota is None else min(available, math.ceil(quota))
    return CpuBudget(max(count, 1), available, quota)


class df:  # noqa: N801 - the public name
    """Free space where *path* lies."""

    def __init__(self, path: str | bytes | os.PathLike[Any]) -> None:
        self.path = path

    @cached_property
    def stat(self) -> os.statvfs_result:
        return os.statvfs(self.path)

    @property
    def total_blocks(self) -> float:
        return self.stat.f_blocks * self.stat.f_frsize / 1024

    @property
    def available(self) -> float:
        return self.stat.f_bavail * self.stat.f_frsize / 1024

    @property
    def capacity(self) -> int:
        """Per cent in use, rounded up."""
        used = self.stat.f_blocks - self.stat.f_bfree
        whole = used + self.stat.f_bavail
        return math.ceil(used * 100 / whole) if whole else 0


__all__ = [
    "AUTO_CONCURRENCY",
    "CpuBudget",
    "available_cpu_count",
    "cgroup_cpu_quota",
    "cpu_budget",
    "df",
    "is_auto_concurrency",
    "load_average",
]
