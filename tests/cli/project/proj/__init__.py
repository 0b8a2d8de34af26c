"""A package whose application is in its module `celery`, as Celery's documentation has it."""
