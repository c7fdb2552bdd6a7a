"""A request's body, never more of it than is allowed."""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect, Request

from aiflow_ext.provider.http.problems import Problem

BODY_MAX = 3 << 19  # bytes, 1.5 MiB: the longest value, and room around it
READ_TIMEOUT = 30.0  # seconds for all of it


async def read(request: Request) -> bytes:
    """Return the body.

    :raises Problem: 413, it is too long, or says that it will be; 408, it does not come; 415, it is compressed.
    """
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Problem(415, "a body with a Content-Encoding is not taken")
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > BODY_MAX:
        raise _too_long()
    try:
        async with asyncio.timeout(READ_TIMEOUT):
            return await _collect(request)
    except TimeoutError:
        raise Problem(408, f"the body did not come within {READ_TIMEOUT:g} s") from None
    except ClientDisconnect:
        raise Problem(400, "the body was cut off") from None


async def _collect(request: Request) -> bytes:
    found = bytearray()
    async for chunk in request.stream():
        if len(found) + len(chunk) > BODY_MAX:
            raise _too_long()
        found += chunk
    return bytes(found)


def _too_long() -> Problem:
    # What is still on its way is not read: the connection cannot be used again.
    return Problem(413, f"the body is longer than {BODY_MAX:,} bytes", {"Connection": "close"})


def media_type(request: Request) -> str:
    """Return the type of the body in lower case, without parameters.

    :raises Problem: 415, its charset is not UTF-8.
    """
    kind, *parameters = request.headers.get("content-type", "").lower().split(";")
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "charset" and value.strip().strip('"') not in {"utf-8", "utf8", "us-ascii"}:
            raise Problem(415, "the charset of a body is UTF-8")
    return kind.strip()
