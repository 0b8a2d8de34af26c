import json
import os
import sys

import sentry_sdk
from sentry_sdk.integrations.celery import CeleryIntegration
from sentry_sdk.transport import Transport


class Noting(Transport):
    def capture_envelope(self, envelope):
        for item in envelope.items:
            if item.type in {"event", "transaction"}:
                event = item.payload.json
                error = (event.get("exception") or {}).get("values") or [{}]
                trace = event["contexts"]["trace"]
                print(
                    "SENTRY",
                    json.dumps([item.type, event.get("transaction"), error[-1].get("type"), trace["trace_id"]]),
                    file=sys.__stdout__,
                    flush=True,
                )


sentry_sdk.init(
    dsn="http://key@127.0.0.1/1", transport=Noting, traces_sample_rate=1.0, integrations=[CeleryIntegration()]
)

from celery import Celery  # noqa: E402

app = Celery("app_sentry", broker=os.environ["URL"], backend=os.environ["URL"])


@app.task(name="boom")
def boom(x):
    raise ValueError("boom")


def drive():
    with sentry_sdk.start_transaction(name="outside") as outer:
        result = boom.delay(1)
    print("OUTER", outer.trace_id)
    try:
        result.get(timeout=60)
    except ValueError:
        print("RAISED")
