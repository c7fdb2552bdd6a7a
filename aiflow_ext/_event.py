"""The fact: what happened, to what, said by whom.

The module's name has an underscore because ``aiflow_ext.event`` is the function that makes a condition.
"""

from typing import NamedTuple


class Event(NamedTuple):
    """Something that happened; never changed once it is in the log.

    :param key: what it is about, 1 to 1,024 bytes.
    :param value: what is said about it, up to 1 MiB of text.
    :param type: which kind of event it is.
    :param context: reaches only the runs with this context; None: all.
    :param namespace: None: that of the client which publishes it.  Always set in events that were read.
    :param sender: who says it; None: the client's.  Always set in events that were read.
    :param offset: its place in the log, from 1; 0 before it is in it.
    :param create_time: when the log got it, in ms since the epoch; 0 before.
    """

    key: str
    value: str = ""
    type: str = "UNDEFINED"
    context: str | None = None
    namespace: str | None = None
    sender: str | None = None
    offset: int = 0
    create_time: int = 0


Event.__module__ = "aiflow_ext"  # where users and pickles find it
