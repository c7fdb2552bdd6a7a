"""Events as plain JSON: one object, or a list of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from aiflow_ext._event import Event
from aiflow_ext.provider.http import cloudevents, jsontext
from aiflow_ext.provider.http.arrivals import BATCH_MAX, Arrival, Caller, checked, identity_of, one_of_its_own
from aiflow_ext.provider.http.models import PlainEvent
from aiflow_ext.provider.http.problems import Problem

_many: TypeAdapter[list[PlainEvent]] = TypeAdapter(list[PlainEvent])


def parse(body: bytes, caller: Caller) -> list[Arrival]:
    """Return the events of a body; the caller is the sender of those that name none."""
    found = jsontext.read(body)
    kind = cloudevents.STRUCTURED
    if isinstance(found, list):
        kind = cloudevents.BATCH
    else:
        found = [found]
    if any(isinstance(one, dict) and "specversion" in one for one in found):
        raise Problem(415, f"this is a CloudEvent: send it with Content-Type: {kind}")
    if len(found) > BATCH_MAX:
        raise Problem(422, f"{len(found)} events in one request, at most {BATCH_MAX} are allowed")
    try:
        events = _many.validate_python(found)
    except ValidationError as e:
        raise invalid(e.errors(include_input=False, include_url=False, include_context=False)) from None
    return [_arrival(event, caller) for event in events]


def _arrival(plain: PlainEvent, caller: Caller) -> Arrival:
    if plain.sender not in {None, caller.name} and not caller.for_others:
        raise Problem(
            403,
            f"you publish as {caller.name!r}, so the sender cannot be {plain.sender!r}: leave it out, or ask for the "
            "right to edit assets, which lets you publish for others",
        )
    sender = plain.sender if plain.sender is not None else plain.source or caller.name
    event = Event(plain.key, plain.value, plain.type, plain.context, plain.namespace, sender)
    if not plain.id:
        return Arrival(checked(event), one_of_its_own())
    return Arrival(checked(event), identity_of(plain.source, plain.id))


def invalid(errors: Iterable[Mapping[str, Any]]) -> Problem:
    """Return the problem that says what each is about."""
    found = [
        {"loc": list(e["loc"]), "msg": str(e["msg"]).removeprefix("Value error, ")} for e in errors
    ]  # and not the input: it may be secret
    first = found[0]
    where = ".".join(str(part) for part in first["loc"])
    more = f", and {len(found) - 1} more" if len(found) > 1 else ""
    return Problem(422, f"{where}: {first['msg']}{more}", errors=found[:100])
