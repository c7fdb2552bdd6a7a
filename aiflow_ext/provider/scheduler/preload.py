"""Import what every task imports, once, in the process whose children the workers are."""

from __future__ import annotations

import importlib
import logging

log = logging.getLogger(__name__)

# Measured on a quiet machine: 110 to 220 ms of each task's start are these imports.
MODULES = (
    "airflow.sdk",
    "airflow.sdk.execution_time.supervisor",
    "airflow.sdk.execution_time.task_runner",
    "airflow.sdk.execution_time.context",
    "airflow.sdk.api.client",
    "airflow.sdk.serde",
    "airflow.dag_processing.dagbag",
    "airflow.dag_processing.bundles.manager",
    "airflow.providers.standard.operators.python",
    "airflow.providers.standard.decorators.python",
    "airflow.utils.net",
)


def preload() -> None:
    """Do it.  A module that this Airflow does not have is left to the tasks."""
    for name in MODULES:
        try:
            importlib.import_module(name)
        except ImportError as e:
            log.debug("aiflow: not preloaded: %s", e)
