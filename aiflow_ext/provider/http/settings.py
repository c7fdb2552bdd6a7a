"""The keys of the [aiflow] section that only the api-server reads."""

from __future__ import annotations

from dataclasses import dataclass, field

from airflow.configuration import conf

from aiflow_ext.provider.config import Config


@dataclass(frozen=True)
class HttpConfig:
    """What the HTTP side runs with.

    :param broker: address of the broker.
    :param key_file: the key to it, for ``tcp://``; "": see `aiflow_ext.keys.client_key`.
    :param streams: how many server-sent streams one process serves at a time.
    :param github: secrets of GitHub's webhooks; none: that route is off.
    :param mlflow: the same of MLflow's.
    """

    broker: str
    key_file: str
    streams: int
    github: tuple[bytes, ...] = field(repr=False)
    mlflow: tuple[bytes, ...] = field(repr=False)

    @classmethod
    def from_airflow(cls) -> HttpConfig:
        """Read it.

        :raises ValueError: a key has a value it cannot have.
        """
        config = Config.from_airflow()
        return cls(
            broker=config.broker,
            key_file=config.key_file,
            streams=conf.getint("aiflow", "http_streams", fallback=100),
            github=_secrets("github_webhook_secrets"),
            mlflow=_secrets("mlflow_webhook_secrets"),
        )


def _secrets(key: str) -> tuple[bytes, ...]:
    texts = conf.get("aiflow", key, fallback="").split(",")
    return tuple(text.strip().encode() for text in texts if text.strip())
