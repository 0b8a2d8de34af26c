"""Send tasks and use their results. Start a worker first: celery -A tasks worker -l INFO.

It needs nothing else.  On Redis, set CELERY_BROKER_URL and CELERY_RESULT_BACKEND to redis://localhost:6379/0 for both.
"""

from __future__ import annotations

from tasks import add, app, fetch

sent = add.delay(2, 3)
print("2 + 3 =", sent.get(timeout=30))

with app.bulk():  # one write to the broker for all of them
    sums = [add.delay(n, n) for n in range(5)]
print("doubled:", [each.get(timeout=30) for each in sums])

later = fetch.apply_async(("a page",), countdown=1)
print("a second later:", later.get(timeout=30))
