"""The programs: what `celery worker` starts."""
