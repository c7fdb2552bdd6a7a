"""HTTP for events, on Airflow's api-server below ``/aiflow``: docs/http.md.

Airflow loads plug-ins in each of its processes, and only the api-server answers requests: so the application is built
at its first request, and importing this costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send


class _Lazy:
    """An ASGI application that is built when it is first asked for something."""

    def __init__(self) -> None:
        self._app: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._app is None:
            from aiflow_ext.provider.http.app import build

            self._app = build()
        await self._app(scope, receive, send)


application = _Lazy()
