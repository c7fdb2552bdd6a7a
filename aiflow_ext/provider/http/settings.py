"""The keys of the [aiflow] section that only the api-server reads, beside those that all read."""

from __future__ import annotations

from dataclasses import dataclass, field

from airflow.configuration import conf

from aiflow_ext.provider.config import Config


@dataclass(frozen=True)
class HttpConfig:
    """What the HTTP side runs with.

    :param common: what all parts of Airflow run with.
    :param streams: how many server-sent streams one process serves at a time.
    :param github: secrets of GitHub's webhooks; none: that route is off.
    :param mlflow: the same of MLflow's.
    """

    common: Config
    streams: int
    github: tuple[bytes, ...] = field(repr=False)
    mlflow: tuple[bytes, ...] = field(repr=False)

    @classmethod
    def from_airflow(cls) -> HttpConfig:
        """Read it.

        :raises ValueError: a key has a value it cannot have.
        """
        return cls(
            common=Config.from_airflow(),
            streams=conf.getint("aiflow", "http_streams", fallback=100),
            github=_secrets("github_webhook_secrets"),
            mlflow=_secrets("mlflow_webhook_secrets"),
        )


def _secrets(key: str) -> tuple[bytes, ...]:
    texts = conf.get("aiflow", key, fallback="").split(",")
    return tuple(text.strip().encode() for text in texts if text.strip())
