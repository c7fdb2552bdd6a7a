"""Learn handwritten digits online, score every model version, serve the best: all at once, by events.

    train ──MODEL_GENERATED──▶ evaluate ──MODEL_VALIDATED──▶ serve ◀──predict── anybody
                                        └─MODEL_REJECTED              └─prediction─▶

No task is downstream of another: each is started, restarted and stopped by events, inside one Dag run.
The 1,797 real images that scikit-learn ships stream by in order; every ninth is held out and never learned.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from airflow.sdk import dag, task

from aiflow_ext import (
    Event,
    EventClient,
    event,
    restart_on,
    start_on,
    stop_on,
    stop_requested,
    triggering_events,
)

HELD_OUT_EVERY = 9
VERSION_EVERY = 200
BATCH = 10


def reacted(task_id: str, began: float) -> None:
    """Tell the world when our first line ran, and what for: the demo prints it."""
    events = triggering_events()
    value = {"task": task_id, "began_ms": began * 1000, "offsets": [e.offset for e in events]}
    EventClient(sender=task_id).publish(Event("demo", json.dumps(value), type="REACTED"))


def folder(run_id: str) -> Path:
    """Where the models of a run are, and the images they are scored on."""
    path = Path(os.environ["AIRFLOW_HOME"]) / "models" / run_id
    path.mkdir(parents=True, exist_ok=True)
    return path


def predict(model, images):
    """The digit that a linear model sees in each image.  Importing scikit-learn for this would take seconds."""
    return (images @ model["weights"] + model["bias"]).argmax(axis=1)


@dag(schedule=None, catchup=False, max_active_runs=1, params={"images_per_second": 40}, tags=["aiflow"])
def online_learning():
    @task
    def train(params=None, run_id=None):
        began = time.time()
        reacted("train", began)
        import joblib
        from sklearn.datasets import load_digits
        from sklearn.linear_model import SGDClassifier

        client = EventClient(sender="train")
        images, labels = load_digits(return_X_y=True)
        images /= 16
        joblib.dump((images, labels), folder(run_id) / "images.joblib")
        model = SGDClassifier(loss="log_loss", random_state=0)
        for seen in range(BATCH, len(images) + 1, BATCH):
            batch = [i for i in range(seen - BATCH, seen) if i % HELD_OUT_EVERY]
            model.partial_fit(images[batch], labels[batch], classes=range(10))
            if seen % VERSION_EVERY == 0:
                version = seen // VERSION_EVERY
                path = folder(run_id) / f"{version}.joblib"
                joblib.dump({"weights": model.coef_.T, "bias": model.intercept_}, path)
                value = {"version": version, "images": seen, "path": str(path)}
                client.publish(Event("digits", json.dumps(value), type="MODEL_GENERATED"))
            time.sleep(BATCH / params["images_per_second"])
            if stop_requested():
                return
        # The images are through, the task is not: a stream has no end but the one it is told.
        for _ in client.subscribe(key="images"):
            pass

    @task
    def evaluate(run_id=None):
        began = time.time()
        reacted("evaluate", began)
        import joblib

        client = EventClient(sender="evaluate")
        images, labels = (a[::HELD_OUT_EVERY] for a in joblib.load(folder(run_id) / "images.joblib"))
        best_path = folder(run_id) / "best.json"
        best = json.loads(best_path.read_text()) if best_path.exists() else 0.0
        for generated in triggering_events():
            found = json.loads(generated.value)
            accuracy = float((predict(joblib.load(found["path"]), images) == labels).mean())
            verdict = "MODEL_VALIDATED" if accuracy > best else "MODEL_REJECTED"
            best = max(accuracy, best)
            best_path.write_text(json.dumps(best))
            client.publish(Event("digits", json.dumps(found | {"accuracy": accuracy}), type=verdict))

    @task
    def serve(run_id=None):
        began = time.time()
        reacted("serve", began)
        import joblib

        client = EventClient(sender="serve")
        images, _ = joblib.load(folder(run_id) / "images.joblib")
        found = json.loads(triggering_events()[-1].value)
        model = joblib.load(found["path"])
        # Each try goes on where the last one ended: no request is lost, and only a crash can have one answered twice.
        after = triggering_events()[-1].offset  # of the first try
        for request in client.subscribe(key="predict", resume=f"serve {run_id}", after=after):
            image = json.loads(request.value)["image"]
            digit = int(predict(model, images[image : image + 1])[0])
            value = {"request": request.offset, "image": image, "digit": digit, "version": found["version"]}
            client.publish(Event("prediction", json.dumps(value)))

    training, evaluation, serving = train(), evaluate(), serve()
    start_on(evaluation, event("digits", type="MODEL_GENERATED"), while_running="each")
    restart_on(serving, event("digits", type="MODEL_VALIDATED"))
    stop_on(training, event("stream.end"))
    stop_on(serving, event("stream.end"))


online_learning()
