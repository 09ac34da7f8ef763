"""What the models share: rows of the index, and errors."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Request(BaseModel):
    """A body or query that is taken as it is described, and not otherwise."""

    model_config = ConfigDict(extra="forbid")


class Answer(BaseModel):
    """An answer, or a part of one. A later version may say more than is described here."""

    model_config = ConfigDict(extra="allow")


class ProblemDetails(BaseModel):
    """An error (RFC 9457)."""

    type: str = Field("about:blank", description="Kind of problem; about:blank: see status")
    title: str = Field(description="The status in words")
    status: int = Field(description="HTTP status")
    detail: str = Field(description="What is wrong with this very request")
    hint: str = Field("", description="What an operator can do; may be missing")
    kind: str = Field("", description="Name of the raypacs error; may be missing")
