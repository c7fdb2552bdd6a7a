"""What goes wrong, as a status and a text for whoever asked (RFC 9457).  Imports no web framework."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any

from aiflow_ext.errors import AccessError, ClosedError, ConflictError, Error, ReplacedError, RetentionError, StoreError

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER = "5"  # seconds
AWAY = "the broker of the event log does not answer; `airflow scheduler --event-mode` or `aiflow broker` must run"
UNSURE = "; what was sent may be in the log or not: the same again, with the same id, is not a second event"


class Problem(Exception):
    """An answer that says no.  `more` are members of its JSON beside title, status and detail."""

    def __init__(self, status: int, detail: str, headers: dict[str, str] | None = None, **more: Any) -> None:
        super().__init__(status, detail)
        self.status = status
        self.detail = detail
        self.headers = headers or {}
        self.more = more

    def body(self) -> dict[str, Any]:
        """Return the answer's JSON."""
        title = HTTPStatus(self.status).phrase
        return {"type": "about:blank", "title": title, "status": self.status, "detail": self.detail, **self.more}


def unavailable(detail: str) -> Problem:
    """Return what is answered while something we need is away."""
    return Problem(503, detail, {"Retry-After": RETRY_AFTER})


def of_error(error: Exception, sending: bool = False) -> Problem | None:
    """Return what is answered when a call of the event client raised this; None: it is a bug of ours."""
    unsure = UNSURE if sending else ""
    if isinstance(error, TimeoutError):
        return unavailable(AWAY + unsure)
    if isinstance(error, StoreError):  # its text is the database's, and for our log
        log.warning("aiflow: the broker's database failed: %s", error)
        return unavailable("the database of the event log failed" + unsure)
    if isinstance(error, ReplacedError | RetentionError):
        return Problem(410, str(error))
    if isinstance(error, AccessError):
        return Problem(403, str(error))
    if isinstance(error, ConflictError | ClosedError | MemoryError):
        return unavailable(str(error) or "out of memory")
    if isinstance(error, Error):
        log.error("aiflow: %s: %s", type(error).__name__, error)
        return Problem(502, f"the event log gave an answer that cannot be used: {type(error).__name__}")
    if isinstance(error, ValueError):
        return Problem(422, str(error))
    return None
