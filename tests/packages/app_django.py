import os
from pathlib import Path

import django
from django.conf import settings
from django.core.management import call_command

from celery import Celery, chord, group
from celery.exceptions import ChordError

settings.configure(
    INSTALLED_APPS=["django_celery_results"],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": Path.cwd() / "results.db",
            "OPTIONS": {"timeout": 30, "transaction_mode": "IMMEDIATE"},
        }
    },
    USE_TZ=True,
)
django.setup()

app = Celery("app_django", broker=os.environ["URL"], backend="django-db")


@app.task
def add(x, y):
    return x + y


@app.task
def fail():
    raise ValueError("on purpose")


@app.task
def total(values):
    return sum(values)


def before():
    call_command("migrate", verbosity=0)


def drive():
    print("TASK", add.delay(1, 2).get(timeout=60))
    print("CHORD", chord([add.s(n, n) for n in range(10)], total.s()).delay().get(timeout=60))
    print("GROUP", (group(add.s(n, 1) for n in range(3)) | total.s() | add.s(100)).delay().get(timeout=60))
    failed = chord([add.s(1, 1), fail.s()], total.s()).delay()
    try:
        failed.get(timeout=60)
    except ChordError as error:
        print("FAILED", type(error).__name__)
