"""Thresholds in hours of space left, by day and night; who is told (FEATURES B1, B4, B15)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from raypacs.autopilot.base import Strict


class Thresholds(Strict):
    """Hours of space left at which a cache becomes amber, red, or is to be freed (web caches)."""

    amber_h: float = Field(
        default=48.0, ge=0, description="Hours left at which an image cache is amber. Default 48."
    )
    red_h: float = Field(
        default=24.0, ge=0, description="Hours left at which an image cache is red. Default 24."
    )
    web_h: float = Field(
        default=24.0, ge=0, description="Hours left at which a web cache is freed. Default 24."
    )
    amber_night_h: float | None = Field(
        default=None, ge=0, description="`amber_h` in the archive window. Default as by day."
    )
    red_night_h: float | None = Field(
        default=None, ge=0, description="`red_h` in the archive window. Default as by day."
    )
    web_night_h: float | None = Field(
        default=None, ge=0, description="`web_h` in the archive window. Default as by day."
    )
    hysteresis: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="A level is left only when the hours exceed its threshold by this part. "
        "Default 0.1.",
    )

    keep_days: float = Field(
        default=0.0,
        ge=0,
        le=3650,
        description="Days of space that are made at least, once a cache is amber, so that it does "
        "not become amber again soon. Default 0: until the level is left.",
    )

    @property
    def red_above_amber(self) -> str:
        """Why these cannot be: red is above amber; '' where it is not."""
        night = (
            self.red_h if self.red_night_h is None else self.red_night_h,
            self.amber_h if self.amber_night_h is None else self.amber_night_h,
        )
        for when, red, amber in (("", self.red_h, self.amber_h), (" at night", *night)):
            if red > amber:
                return (
                    f"red{when} ({red:g} h) is above amber ({amber:g} h): red is the more urgent "
                    "level and comes later, so its hours must not be more"
                )
        return ""

    @model_validator(mode="after")
    def _red_below_amber(self) -> Thresholds:
        if self.red_above_amber:
            raise ValueError(self.red_above_amber)
        return self


class OwnThresholds(Thresholds):
    """Hours of one cache: those keys that are given hold; the others are those of all caches."""

    def over(self, site: Thresholds) -> Thresholds:
        """Return the thresholds of all caches with those of this one laid over them."""
        return site.model_copy(update={name: getattr(self, name) for name in self.model_fields_set})

    @model_validator(mode="after")
    def _red_below_amber(self) -> OwnThresholds:
        """Nothing to say before the others are known: see ``check_own``."""
        return self

    @model_serializer(mode="wrap")
    def _given(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what was not given: read again, it would hide the values of all caches."""
        values: dict[str, Any] = plain(self)
        return {name: value for name, value in values.items() if name in self.model_fields_set}


def check_own(site: Thresholds, tiers: Iterable[tuple[str, OwnThresholds | None]]) -> None:
    """Raise ValueError where red is above amber on a tier, with the values of all caches."""
    for name, own in tiers:
        why = own.over(site).red_above_amber if own is not None else ""
        if why:
            raise ValueError(
                f"tier {name}, with `[thresholds]` where it has none of its own: {why}"
            )


class AlarmSettings(Strict):
    """Who is told when a cache is red, when archiving stands still, when nothing may be evicted.

    Secrets stay with the node: `RAYPACS_WEBHOOK_TOKEN` and `RAYPACS_SMTP_PASSWORD` in the master's
    environment, or the same names with `_FILE` for files that hold them.
    """

    webhook_url: str = Field(
        default="",
        description="URL to which each alarm, and its end, is sent as a JSON object by POST. "
        "Default empty: none. A token in `RAYPACS_WEBHOOK_TOKEN` goes along as a bearer token.",
    )
    mail_to: tuple[str, ...] = Field(
        default=(), description="Mail addresses that are told. Default none."
    )
    mail_from: str = Field(
        default="raypacs@localhost", description="Sender of mails. Default `raypacs@localhost`."
    )
    smtp_host: str = Field(
        default="localhost", description="Host of the mail server. Default `localhost`."
    )
    smtp_port: int = Field(
        default=25, ge=1, le=65535, description="TCP port of the mail server. Default 25."
    )
    smtp_security: Literal["none", "starttls", "tls"] = Field(
        default="none",
        description="`starttls`, `tls` from the beginning (port 465), or `none`. Default `none`, "
        "for a server on the same host.",
    )
    smtp_user: str = Field(
        default="",
        description="User at the mail server; its password is in `RAYPACS_SMTP_PASSWORD`. "
        "Default empty: no login.",
    )
    evictable_h: float = Field(
        default=48.0,
        ge=0,
        description="Hours until nothing is left that may be evicted from an image cache, below "
        "which that is an alarm. Default 48: time to find another place. 0: never.",
    )
    archive_still_h: float = Field(
        default=3.0,
        ge=0,
        description="Hours of an open archive window without anything archived, while studies "
        "wait, that are an alarm. Default 3. 0: never.",
    )

    @field_validator("webhook_url")
    @classmethod
    def _webhook(cls, value: str) -> str:
        parts = urlsplit(value)
        if value and (parts.scheme not in ("http", "https") or not parts.hostname):
            raise ValueError("a webhook has an http or https URL")
        if parts.username or parts.password:
            raise ValueError("a URL has no user or password: set RAYPACS_WEBHOOK_TOKEN")
        return value

    @field_validator("mail_to", "mail_from")
    @classmethod
    def _addresses(cls, value: tuple[str, ...] | str) -> tuple[str, ...] | str:
        for address in (value,) if isinstance(value, str) else value:
            if not re.fullmatch(r"[^@\s<>,;]+@[^@\s<>,;]+", address):
                raise ValueError(f"{address!r:.80} is not a mail address")
        return value

    @model_validator(mode="after")
    def _no_password_in_the_clear(self) -> AlarmSettings:
        if self.smtp_user and self.smtp_security == "none":
            raise ValueError(
                "`smtp_user` needs `smtp_security` `starttls` or `tls`, or its password is sent "
                "in the clear"
            )
        return self
