"""Events that start, stop and restart tasks inside a running Airflow Dag run.

The public names.  Each is loaded at its first use: importing this package opens nothing, reads no configuration and
imports neither Airflow nor the C core, because Airflow imports plug-ins in every one of its processes.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._core import EventLog as EventLog
    from ._event import Event as Event
    from .errors import AccessError as AccessError
    from .errors import ClosedError as ClosedError
    from .errors import ConflictError as ConflictError
    from .errors import CorruptError as CorruptError
    from .errors import DescriptorError as DescriptorError
    from .errors import Error as Error
    from .errors import ForkError as ForkError
    from .errors import ProtocolError as ProtocolError
    from .errors import ReplacedError as ReplacedError
    from .errors import RetentionError as RetentionError
    from .errors import StoreError as StoreError
    from .events.aio import AsyncEventClient as AsyncEventClient
    from .events.client import EventClient as EventClient
    from .events.listen import Listener as Listener
    from .events.subscription import Subscription as Subscription
    from .provider.author.operators import restart_on as restart_on
    from .provider.author.operators import start_on as start_on
    from .provider.author.operators import stop_on as stop_on
    from .provider.author.task import stop_requested as stop_requested
    from .provider.author.task import triggering_events as triggering_events
    from .rules import all_of as all_of
    from .rules import any_of as any_of
    from .rules import asset_updated as asset_updated
    from .rules import event as event
    from .rules import every as every
    from .rules import status as status

_MODULES = {
    "_core": ("EventLog",),
    "_event": ("Event",),
    "events.aio": ("AsyncEventClient",),
    "errors": (
        "AccessError",
        "ClosedError",
        "ConflictError",
        "CorruptError",
        "DescriptorError",
        "Error",
        "ForkError",
        "ProtocolError",
        "ReplacedError",
        "RetentionError",
        "StoreError",
    ),
    "events.client": ("EventClient",),
    "events.listen": ("Listener",),
    "provider.author.operators": ("restart_on", "start_on", "stop_on"),
    "provider.author.task": ("stop_requested", "triggering_events"),
    "events.subscription": ("Subscription",),
    "rules": ("all_of", "any_of", "asset_updated", "event", "every", "status"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}
__all__ = [*_HOME]  # noqa: PLE0604


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
