"""One place for bytes: what operators say of it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from raypacs.autopilot.base import Strict
from raypacs.autopilot.thresholds import OwnThresholds
from raypacs.compression import is_stored
from raypacs.object_store import S3Access, check_no_secrets, without_secrets


class TierSettings(Strict):
    """One place for bytes: an fsspec URL with a role, a capacity and an order."""

    name: str = Field(description="Name of the tier, unique in the cluster.")
    role: Literal["image", "web", "library"] = Field(
        description="`image` as received, `web` wavelet form, `library` long-term copy."
    )
    url: str = Field(
        description="`file:///folder`, `s3://bucket/prefix`, or another fsspec URL; the same on "
        "every node. No passwords, no query. See [tiers.md](tiers.md)."
    )
    capacity_bytes: int = Field(
        default=0,
        ge=0,
        description="Bytes raypacs may use. Default 0: what the file system reports as free plus "
        "what raypacs already uses there; of an object store without limit.",
    )
    order: int = Field(default=1, ge=1, description="Tier 1 is filled first. Default 1.")
    read_only: bool = Field(default=False, description="No new objects. Default false.")
    draining: bool = Field(
        default=False,
        description="No new objects, and what lies there is moved away (`raypacs tier drain`). "
        "Default false.",
    )
    thresholds: OwnThresholds | None = Field(
        default=None,
        description="`[tiers.thresholds]`: this cache's own hours. What is left out is as in "
        "`[thresholds]`.",
    )
    adopted: Literal["", "folder", "orthanc"] = Field(
        default="",
        description="An archive that others wrote, served where it lies (`raypacs adopt`): "
        "`folder`, files in any folders, or `orthanc`, its storage. Nothing is ever written or "
        "deleted there, so it goes with role `image` and `read_only`. Default empty: a tier of "
        "raypacs' own.",
    )
    reserve_bytes: int = Field(
        default=256 * 1024 * 1024,
        ge=0,
        description="Bytes left free on the file system. Default 256 MiB, because a completely "
        "full disk stops databases and logs as well. Only used where capacity_bytes is 0.",
    )
    s3: S3Access = Field(
        default=S3Access(),
        description="`[tiers.s3]`, for a tier with an `s3://bucket/prefix` URL: how the store is "
        "reached. Keys come from the node's environment or files, never from settings.",
    )

    @field_validator("url")
    @classmethod
    def _no_secrets(cls, value: str, info: ValidationInfo) -> str:
        if not is_stored(info):
            check_no_secrets(value)
        return value

    @property
    def shown_url(self) -> str:
        """The URL for messages: earlier versions took passwords in it."""
        return without_secrets(self.url)

    @property
    def takes_new(self) -> bool:
        """Whether new objects may be written there."""
        return not self.read_only and not self.draining

    @model_validator(mode="after")
    def _adopted(self) -> TierSettings:
        if self.adopted and (self.role != "image" or not self.read_only):
            raise ValueError("an adopted tier has the role `image` and is `read_only`")
        if self.adopted and self.draining:
            raise ValueError(
                "an adopted tier cannot be drained: its files are others', and never moved or "
                "deleted; delete its studies, or copy them in by `raypacs ingest`"
            )
        return self

    @model_serializer(mode="wrap")
    def _without_s3(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what says nothing: most tiers are no S3 stores."""
        values: dict[str, Any] = plain(self)
        if self.s3 == S3Access():
            del values["s3"]
        if self.thresholds is None:
            del values["thresholds"]
        return values
