"""The services of a worker by name, each with those it needs: what `celery graph bootsteps` draws.

The order in which they start and stop is written in `controller`; this is the reason for it, as a table.
"""

from __future__ import annotations

Services = tuple[tuple[str, tuple[str, ...]], ...]

WORKER: Services = (
    ("Pidfile", ()),
    ("StateDB", ("Pidfile",)),
    ("Broker", ("Pidfile",)),
    ("Pool", ("Broker",)),
    ("Consumer", ("Pool", "StateDB")),
    ("Leases", ("Consumer",)),
    ("Autoscaler", ("Pool", "Consumer")),
    ("Beat", ("Broker",)),
    ("Worker", ("Consumer", "Leases", "Autoscaler", "Beat")),
)
CONSUMER: Services = (
    ("Connection", ("Broker",)),
    ("Mingle", ("Connection",)),
    ("Events", ("Connection",)),
    ("Heart", ("Events",)),
    ("Gossip", ("Events", "Mingle")),
    ("Tasks", ("Mingle", "Events")),
    ("Control", ("Tasks",)),
    ("Consumer", ("Connection", "Tasks")),
)
