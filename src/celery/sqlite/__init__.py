"""What the embedded broker is made of; the statements are in `celery/sql`."""
