"""What a task does that waits for events, when the log is another one now, or let some of them go."""

import logging
import time
from datetime import datetime

from ..errors import StoreError
from .client import EventClient

log = logging.getLogger(__name__)

AWAY_SEC = 1.0  # until a broker that does not answer, or whose log fails, is asked again

MISSED = "the task may have waited for these: clear it, and it waits anew"
"""What to do where a task waited for events, and some were let go that it had not seen."""


def offset_since(client: EventClient, began: datetime) -> int | None:
    """Return the offset behind which all that is kept of what was published since lies, in the log that is there now.

    The offsets of the old log mean nothing in it; the time does, also where it is an older copy of the old one.  What
    was let go of older events does not matter.  Waits for the broker as long as it takes.

    :param began: when it began to wait, with a time zone.
    :return: None: by the broker's clock that time has not come.
    """
    while True:
        try:
            head = client.head()
            after: int | None = client.offset_at(began)
            while after is not None:
                found, after = client.page(namespace="*", after=after, limit=1, kept=True)
                if found:
                    return found[0].offset - 1
            return head
        except ValueError:
            return None
        except (TimeoutError, StoreError) as e:
            log.warning("aiflow: waiting for the broker: %s", e)
            time.sleep(AWAY_SEC)
