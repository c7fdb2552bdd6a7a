"""A native Dag: nothing in it knows of events.  It runs the same in event mode as in stock Airflow."""

from __future__ import annotations

from airflow.sdk import dag, task


@dag(schedule=None, catchup=False, tags=["aiflow"])
def native():
    @task
    def numbers() -> list[int]:
        return [1, 2, 3]

    @task
    def square(n: int) -> int:
        return n * n

    @task
    def total(squares: list[int]) -> int:
        return sum(squares)

    total(square.expand(n=numbers()))


native()
