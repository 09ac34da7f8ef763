"""Moving between image tiers, and back from libraries (FEATURES C4, B7)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from raypacs.autopilot.base import Strict


class MigrationSettings(Strict):
    """When studies move to a later image tier."""

    after_days: float | None = Field(
        default=None,
        gt=0,
        description="Days since a study grew last after which it moves to the next image tier "
        "(21 to 28 are usual). Default none: never by age.",
    )
    at_level: Literal["never", "red", "amber"] = Field(
        default="amber",
        description="Level of an image tier at which its least recently accessed studies move to "
        "a later one, if there is one with room. Default amber.",
    )
    most_running: int = Field(
        default=2,
        ge=1,
        le=100,
        description="Studies that move at the same time. Default 2: receiving and reading go "
        "first.",
    )
    keep_free: float = Field(
        default=0.05,
        ge=0,
        lt=1,
        description="Part of a tier's capacity that migration leaves free there. Default 0.05.",
    )


class RestoreSettings(Strict):
    """How studies come back from a library."""

    wait_s: float = Field(
        default=60.0,
        ge=0,
        le=3600,
        description="Seconds that a request waits for a study that is only in a library; then it "
        "is told when to ask again (HTTP 503, Retry-After). Default 60.",
    )


class PrefetchRule(Strict):
    """Which relevant priors are brought into the caches when a study arrives."""

    name: str = Field(
        min_length=1, max_length=64, description="Name shown as the reason, 1 to 64 characters."
    )
    when_modality: tuple[str, ...] = Field(
        default=(), description="Modalities of the new study, one is enough. Default any."
    )
    when_body_part: tuple[str, ...] = Field(
        default=(), description="Its Body Part Examined, one is enough. Default any."
    )
    modality: tuple[str, ...] | Literal["same", "any"] = Field(
        default="same",
        description="Modalities of the priors; `same` as the new study, or `any`. Default same.",
    )
    body_part: tuple[str, ...] | Literal["same", "any"] = Field(
        default="any",
        description="Body Part Examined of the priors; `same` as the new study, or `any`. "
        "Default any: many devices do not write it.",
    )
    max_age_days: float = Field(
        default=1825.0,
        gt=0,
        description="Oldest prior, in days before the new study. Default 1825, five years.",
    )
    number: int = Field(
        default=2, ge=1, le=20, description="Most priors, the newest first. Default 2."
    )
    into: Literal["image", "image and web"] = Field(
        default="image and web",
        description="Caches: `image` brings them back from libraries, `image and web` has those "
        "prepared again that left the web cache. Default both.",
    )
    priority: Literal["low", "medium"] = Field(
        default="low", description="Priority of the work. Default low: what is read goes first."
    )
