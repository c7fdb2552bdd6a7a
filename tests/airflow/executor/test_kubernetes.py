"""KubernetesExecutor in event mode, before an API server of ours: each pod is a process on the other host.

This is no Kubernetes.  It shows that the executor does its work where the scheduler waits for events.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from deployment import kill_session
from executor.cluster import Cluster
from executor.hosts import Far, keys_and_broker, other_host

from aiflow_ext import Event


def settings(folder: Path, uri: str) -> dict[str, str]:
    """The configuration of the executor, with the files that it names."""
    kube = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "us"}}],
        "clusters": [{"name": "here", "cluster": {"server": uri}}],
        "users": [{"name": "us", "user": {"token": "ours"}}],
    }
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "a-task"},
        "spec": {"containers": [{"name": "base", "image": "airflow:none"}]},
    }
    for name, content in (("kube", kube), ("pod", pod)):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return {
        "core.executor": "KubernetesExecutor",
        "kubernetes_executor.in_cluster": "False",
        "kubernetes_executor.config_file": str(folder / "kube.yaml"),
        "kubernetes_executor.pod_template_file": str(folder / "pod.yaml"),
        "kubernetes_executor.namespace": "default",
        "kubernetes_executor.worker_container_repository": "airflow",
        "kubernetes_executor.worker_container_tag": "none",
    }


@pytest.fixture
def cluster_and_airflow(tmp_path: Path, server: str) -> Iterator[tuple[Cluster, Far]]:
    pods: list[int] = []

    def run(command: list[str]) -> subprocess.Popen[bytes]:
        _, *args = command  # python
        with (tmp_path / "pods.log").open("ab") as out:
            process = subprocess.Popen(
                [*host.enter, sys.executable, *args],
                env=airflow.env_there("pod"),
                cwd=airflow.home_there("pod"),
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        pods.append(process.pid)
        return process

    with other_host() as host, keys_and_broker(tmp_path, host) as broker:
        cluster = Cluster(run)
        try:
            with Far(tmp_path, host, broker, server, settings(tmp_path, cluster.uri)) as airflow:
                yield cluster, airflow
        finally:
            cluster.close()
            for pid in pods:
                kill_session(pid)


def test_an_event_starts_restarts_and_stops_a_pod(cluster_and_airflow: tuple[Cluster, Far]) -> None:
    cluster, airflow = cluster_and_airflow
    run_id = airflow.begin("far")
    airflow.reach("far", run_id, starts="deferred", serves="deferred")
    with airflow.client() as client:
        client.publish_many([Event("go", "1"), Event("version", "1")])
        airflow.reach("far", run_id, starts="success", follows="success", serves="running")
        assert airflow.returned("far", "starts") == ["pod", "1"]
        client.publish(Event("version", "2"))
        airflow.wait_until(lambda: airflow.try_of("far", "serves")[:2] == (2, "pod"), what="a second try")
        airflow.reach("far", run_id, serves="running")
        client.publish(Event("end"))
        airflow.wait_for_run("far", run_id)
        assert airflow.returned("far", "serves") == ["pod", "2"]

        run_id = airflow.begin("told")  # which does not ask: its row is changed, and its supervisor ends it
        airflow.reach("told", run_id, hears_sigterm="running")
        client.publish(Event("sigterm"))
        airflow.wait_for_run("told", run_id)
    airflow.wait_until(
        lambda: not cluster.some("")[0], what="the executor has heard of their ends, and deletes all pods"
    )
    log = "Sending SIGTERM signal to process group"
    airflow.wait_until(lambda: log in airflow.log_there("pod", "hears_sigterm"), what="on_kill()")
