"""Celeriac: Celery's API and wire protocol, implemented from scratch."""
