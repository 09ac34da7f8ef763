"""How an S3 object store is reached: part of a tier's settings, so without any secret.

Settings lie in the index, in its backups and in exported files. Keys stay with the node: in its
environment, or in the files that AWS's own tools read.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator

# A colon that is not that of a port, before an @.
_PASSWORD = re.compile(r"://[^/:@]*:(?!\d+/)[^@]*@")
_USER = re.compile(r"://(?:[^/]*:.*|[^/]*)@")


def check_no_secrets(url: str) -> None:
    """Refuse a tier's URL that may hold a password or a token. Raises ValueError, without it."""
    if _PASSWORD.search(url):
        raise ValueError("a URL has no password: keys and passwords do not belong into settings")
    if "?" in url:
        raise ValueError("a URL has no query (a ? in a name is written %3F)")


def without_secrets(url: str) -> str:
    """Return a URL as it may stand in messages and logs."""
    head, mark, _ = _USER.sub("://***@", url).partition("?")
    return f"{head}?***" if mark else head


class S3Access(BaseModel):
    """How the store of a tier with an `s3://` URL is reached. Keys never stand here."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    endpoint_url: str = Field(
        default="",
        description="URL of the store, `https://host[:port]`; `http` sends patient data in the "
        "clear. Default empty: what AWS's configuration on the node says, else Amazon's.",
    )
    region: str = Field(
        default="",
        description="Region that requests are signed for. Default empty: that of AWS's "
        "configuration on the node, else `us-east-1`, which most stores in a hospital expect.",
    )
    path_style: bool = Field(
        default=True,
        description="Name the bucket in the path, not in the host name. Default true: works "
        "without a DNS name for each bucket. Amazon wants false for new buckets.",
    )
    profile: str = Field(
        default="",
        description="Profile of AWS's configuration files whose keys are used. Default empty: "
        "the usual order (environment, files, role of the machine).",
    )
    credentials_file: str = Field(
        default="",
        description="File with the keys, in the form of `~/.aws/credentials`; on every node. "
        "Default empty: where AWS's tools look. Keys themselves are never settings.",
    )
    ca_file: str = Field(
        default="",
        description="PEM file of the authority that signed the store's certificate. Default "
        "empty: the authorities the system knows.",
    )
    timeout_s: float = Field(
        default=10.0,
        gt=0,
        le=300,
        description="Seconds without an answer, or without one byte of it, after which a request "
        "counts as failed. Failed ones are repeated for three times as long, then the tier is "
        "unavailable. Default 10.",
    )
    part_bytes: int = Field(
        default=16 * 1024 * 1024,
        ge=5 * 1024 * 1024,
        le=1024 * 1024 * 1024,
        description="Objects above this size are written in parts of it, four at a time. Default "
        "16 MiB: a pack of 100 MB in seven requests. S3 allows no less than 5 MiB.",
    )

    @field_validator("endpoint_url")
    @classmethod
    def _endpoint(cls, value: str) -> str:
        if not value:
            return value
        url = urlsplit(value)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ValueError(f"{value!r} is not https://host[:port]")
        if url.username is not None or url.password is not None:
            raise ValueError("keys do not belong into settings: see `credentials_file`")
        return value
