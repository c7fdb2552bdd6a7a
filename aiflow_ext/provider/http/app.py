"""The FastAPI application, as Airflow's api-server has it below ``/aiflow``."""

from __future__ import annotations

from typing import Any

from airflow.configuration import conf
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match

from aiflow_ext.provider.http import events, stream, webhooks
from aiflow_ext.provider.http.plain import invalid
from aiflow_ext.provider.http.problems import MEDIA_TYPE, Problem

DESCRIPTION = """\
The event log of aiflow_ext: publish, read, listen, and take webhooks.

Users and their permissions are Airflow's: reading asks for what `GET /api/v2/assets/events` asks for, publishing for
what `POST` there does.  Errors are problems as in RFC 9457.
"""


def build() -> FastAPI:
    """Return a new one."""
    swagger = conf.getboolean("api", "enable_swagger_ui", fallback=True)
    app = FastAPI(
        title="aiflow events",
        version="1",
        description=DESCRIPTION,
        docs_url="/docs" if swagger else None,
        redoc_url=None,
        generate_unique_id_function=lambda route: route.name,
        strict_content_type=False,
    )
    app.include_router(events.router)
    app.include_router(stream.router)
    app.include_router(webhooks.router)
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(HTTPException, _http_exception)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _bug)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def answer(problem: Problem) -> JSONResponse:
    """Return a problem as a response."""
    return JSONResponse(problem.body(), problem.status, problem.headers, MEDIA_TYPE)


async def _problem(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Problem)
    return answer(error)


async def _http_exception(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code == 401:
        headers.setdefault("WWW-Authenticate", "Bearer")
    if error.status_code == 405:  # Starlette tells the methods of the first route of that path alone
        headers["Allow"] = ", ".join(sorted(_methods(request)))
    return answer(Problem(error.status_code, str(error.detail), headers))


def _methods(request: Request) -> set[str]:
    routes = request.app.routes
    return {m for r in routes if r.matches(request.scope)[0] is not Match.NONE for m in r.methods or ()}


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return answer(invalid(error.errors()))


async def _bug(request: Request, error: Exception) -> JSONResponse:
    return answer(Problem(500, "an error of ours; the api-server's log has more"))


def _openapi(app: FastAPI) -> dict[str, Any]:
    """Return FastAPI's document, with the media type that our errors really have."""
    if app.openapi_schema is not None:
        return app.openapi_schema
    found = FastAPI.openapi(app)
    for path in found["paths"].values():
        for operation in path.values():
            for parameter in operation.get("parameters", ()):
                if parameter["name"].startswith("x-"):  # of webhooks: looked at after the signature, and needed
                    parameter["required"] = True
            for status, response in operation["responses"].items():
                if status >= "400":
                    (schema,) = response["content"].values()
                    response["content"] = {MEDIA_TYPE: schema}
    return found
