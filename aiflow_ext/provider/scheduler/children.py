"""The scheduler's children, as LocalExecutor's workers, have no connection of its to Airflow's database, and all end.

A child may outlive a scheduler that is killed.  With a copy of its connection the server would believe it alive, and
hold the locks of its last transaction for as long as the child lives: no other scheduler could act on events.  Airflow
makes its children forget the connections (settings.configure_orm), but that leaves the sockets open.
"""

from __future__ import annotations

import functools
import os
import threading
from typing import Any

from airflow import settings
from airflow.executors.local_executor import LocalExecutor

no_fork = threading.Lock()
"""Held by a thread of ours in a transaction: the process is not forked meanwhile."""


@functools.cache  # once in a process
def keep_connections_from_children() -> None:
    """Close the connections that are idle, now and before each fork; executors fork between two transactions."""
    scheduler = os.getpid()
    mine: list[bool] = []

    def before() -> None:
        if os.getpid() == scheduler:  # its children have this, too
            mine.append(no_fork.acquire())
            close_idle()

    def after() -> None:
        if mine and mine.pop():  # a signal may have ended before() early
            no_fork.release()

    close_idle()  # what serves the logs of tasks was forked before
    os.register_at_fork(before=before, after_in_parent=after, after_in_child=after)


def close_idle() -> None:
    """Of Airflow's database."""
    if settings.engine is not None:
        settings.engine.dispose()


def let_workers_end(executors: list[Any]) -> None:
    """Put a word to end into the queue of each LocalExecutor for each of its workers, before its end() waits for them.

    end() does the same, but only for each worker that it finds alive, and any worker takes the word: one that ends
    before it is looked at leaves another one without, which waits for ever.  A word that nobody takes does no harm.

    :param executors: Airflow's, of this process; others than LocalExecutor are left alone.
    """
    for executor in executors:
        if isinstance(executor, LocalExecutor):
            for _ in executor.workers:
                executor.activity_queue.put(None)
