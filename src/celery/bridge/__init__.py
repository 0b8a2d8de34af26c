"""Every transport of kombu that has no driver of its own here: what `celery.brokers.kombu` is made of."""
