"""What goes over the wire as JSON, for checking and for OpenAPI."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from aiflow_ext._event import Event
from aiflow_ext.provider.http.filters import OFFSET_MAX

Text = Annotated[str, Field(strict=True)]

BASE64 = r"^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"


def _without_default(schema: dict[str, Any]) -> None:
    del schema["default"]


class PlainEvent(BaseModel):
    """An event as plain JSON.  Limits are in bytes of UTF-8; no NUL."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"key": "digits", "value": '{"version": 3}', "type": "MODEL_GENERATED"}],
            "dependentRequired": {"id": ["source"], "source": ["id"]},
        },
    )

    key: Text = Field(min_length=1, max_length=1024, description="What it is about.")
    value: Text = Field("", max_length=1 << 20, description="What is said about it.")
    type: Text = Field("UNDEFINED", min_length=1, max_length=255, description="Which kind of event it is.")
    namespace: Text = Field("default", min_length=1, max_length=255)
    sender: Text | None = Field(None, max_length=255, description="Who says it; left out: `source`, else the user.")
    context: Text | None = Field(None, max_length=1024, description="Reaches only the runs with this context.")
    id: Text = Field(
        "",
        min_length=1,
        description="With `source`: what makes the same again a duplicate.",
        json_schema_extra=_without_default,
    )
    source: Text = Field("", min_length=1, json_schema_extra=_without_default)

    @model_validator(mode="after")
    def _both(self) -> PlainEvent:
        if (self.id == "") != (self.source == ""):
            raise ValueError("id and source go together: both, or neither")
        return self


class CloudEvent(BaseModel):
    """A CloudEvent 1.0 as JSON: `subject` (else `source`) becomes the key, `source` the sender, the data the value."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [
                {
                    "specversion": "1.0",
                    "id": "A234-1234-1234",
                    "source": "https://example.com/training",
                    "subject": "digits",
                    "type": "com.example.model.generated",
                    "data": {"version": 3},
                }
            ],
            "propertyNames": {"pattern": "^([a-z0-9]+|data_base64)$"},
            "additionalProperties": {"type": ["string", "boolean", "integer", "null"]},
            "not": {"required": ["data", "data_base64"]},
        },
    )

    specversion: Literal["1.0"]
    id: str = Field(min_length=1)
    source: str = Field(min_length=1, max_length=255, description="A URI reference.")
    type: str = Field(min_length=1, max_length=255)
    subject: str | None = Field(None, min_length=1, max_length=1024)
    time: str | None = Field(None, json_schema_extra={"format": "date-time"})
    datacontenttype: str | None = Field(None, min_length=1)
    dataschema: str | None = Field(None, min_length=1)
    namespace: str | None = Field(None, min_length=1, max_length=255, description="An extension of ours.")
    context: str | None = Field(None, min_length=1, max_length=1024, description="An extension of ours.")
    data: Any = None
    data_base64: str | None = Field(
        None,
        json_schema_extra={"contentEncoding": "base64", "pattern": BASE64},
        description="Of text in UTF-8: a value is text.",
    )


class Published(BaseModel):
    """Where an event is."""

    offset: int = Field(ge=1, le=OFFSET_MAX, examples=[42])
    duplicate: bool = Field(description="It was in the log before: nothing was done.")


class Receipts(BaseModel):
    """One for each event of the request, in its order."""

    events: list[Published]


class LoggedEvent(BaseModel):
    """An event of the log."""

    offset: int = Field(ge=1, le=OFFSET_MAX, description="Its place in the log.", examples=[42])
    create_time: int = Field(description="When the log got it, in ms since the epoch.", examples=[1795253400000])
    namespace: str
    key: str
    type: str
    value: str
    sender: str | None
    context: str | None


class EventPage(BaseModel):
    """Events in the order of their offsets."""

    events: list[LoggedEvent]
    next: int | None = Field(description="Ask again with `after` = this for more; null: there is no more.")


class EventCount(BaseModel):
    """How many."""

    count: int = Field(ge=0)
    senders: dict[str, int] | None = Field(None, description="How many of each sender, where `by=sender` was asked.")


class Latest(BaseModel):
    """The newest that matches."""

    offset: int = Field(ge=0, description="0: there is none.")


class ProblemModel(BaseModel):
    """RFC 9457."""

    model_config = ConfigDict(title="Problem", extra="allow")

    type: str = Field(examples=["about:blank"])
    title: str = Field(examples=["Unprocessable Content"])
    status: int = Field(examples=[422])
    detail: str = Field(examples=["key is empty"])


def logged(event: Event) -> dict[str, Any]:
    """Return what LoggedEvent is, without its checks: the log has made them."""
    return {
        "offset": event.offset,
        "create_time": event.create_time,
        "namespace": event.namespace,
        "key": event.key,
        "type": event.type,
        "value": event.value,
        "sender": event.sender or None,
        "context": event.context or None,
    }
