"""Configuration: a small bootstrap file per node, and settings that live in the index.

``raypacs.toml`` holds only what a node needs before it can reach the index. Everything else is
:class:`Settings`, versioned in the index, exported and applied with ``raypacs config``. Each field
gives its unit, default and reason; ``docs/configuration.md`` is generated from them.
"""

from __future__ import annotations

import hashlib
import json
import socket
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from raypacs.autopilot.archiving import ArchiveSettings
from raypacs.autopilot.arrival import ArrivalRule, SourceSettings
from raypacs.autopilot.arrival import check as check_arrival
from raypacs.autopilot.moving import MigrationSettings, PrefetchRule, RestoreSettings
from raypacs.autopilot.staging import EvictionSettings, SeriesShare, StagingRule
from raypacs.autopilot.thresholds import AlarmSettings, Thresholds, check_own
from raypacs.autopilot.tiers import TierSettings as TierSettings
from raypacs.compression import CompressionRule as CompressionRule
from raypacs.compression import is_stored
from raypacs.errors import ConfigError
from raypacs.parsing import parse as parse


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Bootstrap(_Strict):
    """What one node needs before it can ask anybody: `raypacs.toml`."""

    data_dir: Path = Field(
        default=Path("raypacs-data"),
        description="Folder for the embedded index, the default tiers, logs and run files. "
        "Default `raypacs-data` in the working folder, so that a first try leaves no trace "
        "elsewhere.",
    )
    index_url: str = Field(
        default="",
        description="SQLAlchemy URL of the index. Default empty: SQLite in `data_dir`, which needs "
        "nothing installed. A PostgreSQL URL is for more than one host.",
    )
    node_name: str = Field(
        default="",
        description="Name of this node in the cluster. Default empty: the host name.",
    )
    roles: tuple[Literal["master", "worker", "listener", "gateway"], ...] = Field(
        default=("master", "worker", "listener", "gateway"),
        description="Services this node offers. Default all, because every node should serve.",
    )
    host: str = Field(
        default="127.0.0.1",
        description="Address the DICOM and HTTP listeners bind to. Default loopback: anything else "
        'needs `access = "open"` until access control is configured.',
    )
    access: Literal["loopback", "open"] = Field(
        default="loopback",
        description="`open` switches access control off in so many words and allows `host` to be "
        "other than loopback. Default `loopback`, because patient data is served.",
    )
    adopt_roots: tuple[str, ...] | None = Field(
        default=None,
        description="Folders and `s3://bucket/prefix` URLs from which archives may be adopted over "
        "REST (and so by `raypacs adopt`), themselves included. Default: any place with `access` "
        "`loopback`, none with `open`, as whoever reaches the port could read this node's files.",
    )
    ae_title: str = Field(
        default="RAYPACS",
        description="AE title of the cluster (PS3.8), 1 to 16 characters. Default `RAYPACS`.",
    )
    dicom_port: int = Field(
        default=11112,
        ge=0,
        le=65535,
        description="TCP port of the DICOM listener. Default 11112, registered for DICOM; "
        "0 picks a free one.",
    )
    http_port: int = Field(
        default=8104,
        ge=0,
        le=65535,
        description="TCP port of DICOMweb and REST. Default 8104; 0 picks a free one.",
    )
    cores: int = Field(
        default=0,
        ge=0,
        description="CPU cores given to Ray. Default 0: all of this machine, because compression "
        "is what the cores are for.",
    )
    listener_processes: int = Field(
        default=0,
        ge=0,
        le=64,
        description="Processes that share the DICOM port (one interpreter lock each). Default 0: "
        "one per core, at most 4.",
    )
    gateway_processes: int = Field(
        default=0,
        ge=0,
        le=64,
        description="Processes that share the HTTP port. Default 0: one per core, at most 8.",
    )
    object_store_bytes: int = Field(
        default=128 * 1024 * 1024,
        ge=80 * 1024 * 1024,
        description="Bytes of Ray's object store. Default 128 MiB: tasks pass paths, not pixels.",
    )
    dashboard: bool = Field(
        default=True,
        description="Start Ray's dashboard on loopback. Default true: without it there is no Jobs "
        "API (`raypacs submit`). It costs about 200 MB.",
    )
    dashboard_port: int = Field(
        default=8265,
        ge=0,
        le=65535,
        description="TCP port of Ray's dashboard and Jobs API. Default 8265, as Ray's; 0 picks a "
        "free one.",
    )
    ray_address: str = Field(
        default="",
        description="HOST:PORT of the Ray cluster to join, as its head's `ray_port` says. Default "
        "empty: this node is a head. `raypacs up --join HOST:PORT` sets it.",
    )
    ray_port: int = Field(
        default=0,
        ge=0,
        le=65535,
        description="TCP port at which other nodes join this one, which is then the head of their "
        "Ray cluster. Default 0: a cluster of one node, which nobody joins.",
    )
    ray_host: str = Field(
        default="",
        description="Address under which the other nodes reach this one's Ray. Default empty: "
        "the one that Ray finds.",
    )
    ray_token_path: Path | None = Field(
        default=None,
        description="File with the token that all nodes of the cluster share, readable by its "
        "owner only. Default none: `ray-token` in `data_dir`, made at the first start; a node that "
        "joins needs a copy of the head's.",
    )
    ray_redis: str = Field(
        default="",
        description="HOST:PORT of a Redis in which the head keeps Ray's state, so that the other "
        "nodes work on while it restarts. Default empty: when the head goes, the others end too.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info",
        description="Least severe level written to the logs. Default `info`.",
    )

    @field_validator("ray_address", "ray_redis")
    @classmethod
    def _host_and_port(cls, value: str) -> str:
        host, colon, port = value.rpartition(":")
        if value and not (host and colon and port.isdigit()):
            raise ValueError(f"{value!r} is not HOST:PORT")
        return value

    @model_validator(mode="after")
    def _joining(self) -> Bootstrap:
        if self.ray_address and (self.ray_port or self.ray_redis):
            raise ValueError(
                "a node that joins (`ray_address`) is no head: `ray_port` and `ray_redis` are not "
                "for it"
            )
        if self.ray_address and not self.index_url:
            raise ValueError(
                "a node that joins needs `index_url`: the cluster's PostgreSQL, or on the head's "
                "host its SQLite file"
            )
        return self

    @field_validator("ae_title")
    @classmethod
    def _ae_title(cls, value: str) -> str:
        if not 1 <= len(value.strip()) <= 16 or not value.isascii() or "\\" in value:
            raise ValueError("an AE title has 1 to 16 ASCII characters without backslash")
        return value.strip()

    @model_validator(mode="after")
    def _loopback(self) -> Bootstrap:
        if self.access == "loopback" and self.host not in ("127.0.0.1", "::1", "localhost"):
            raise ValueError(
                f'host = "{self.host}" is not loopback: set access = "open" to serve it '
                "without access control"
            )
        return self

    @property
    def name(self) -> str:
        """This node's name."""
        return self.node_name or socket.gethostname()

    @property
    def adoptable(self) -> tuple[str, ...] | None:
        """Places from which archives may be adopted over REST; None: from any."""
        return () if self.adopt_roots is None and self.access == "open" else self.adopt_roots

    @property
    def clustered(self) -> bool:
        """Whether this node is one of several: it joins others, or others may join it."""
        return bool(self.ray_address or self.ray_port)

    @property
    def database_url(self) -> str:
        """SQLAlchemy URL of the index."""
        return self.index_url or f"sqlite:///{self.data_dir.absolute() / 'index' / 'index.sqlite'}"

    @property
    def run_dir(self) -> Path:
        """Folder of pid, port and claim files; emptied at start."""
        return self.data_dir.absolute() / "run"

    @property
    def log_dir(self) -> Path:
        """The one place of this node's logs."""
        return self.data_dir.absolute() / "logs"

    def hash(self) -> str:
        """Hash over what must agree on all nodes (not names, ports, folders or sizes)."""
        # Two ways to write the same driver.
        index_url = self.database_url.replace("postgresql+psycopg://", "postgresql://")
        shared = {"index_url": index_url, "ae_title": self.ae_title}
        return hashlib.sha256(json.dumps(shared, sort_keys=True).encode()).hexdigest()[:12]


class Settings(_Strict):
    """Cluster-wide settings, versioned in the index."""

    tiers: tuple[TierSettings, ...] = Field(
        default=(),
        description="All tiers. Default: one image and one web tier under the first node's "
        "data_dir, written into the index at its first start.",
    )
    quiet_s: float = Field(
        default=5.0,
        ge=0,
        le=3600,
        description="Seconds without a new instance after which a study is prepared. Default 5, "
        "longer than the gap between two associations of one series. The end of an association "
        "counts as quiet at once.",
    )
    register_interval_s: float = Field(
        default=0.2,
        gt=0,
        le=1,
        description="Seconds between two batches of registrations from an edge. Default 0.2: seen "
        "in searches within a second, at few transactions.",
    )
    lease_s: float = Field(
        default=60.0,
        ge=5,
        le=3600,
        description="Seconds a work item is leased for before it must be renewed. Default 60.",
    )
    chunk_bytes: int = Field(
        default=16 * 1024 * 1024,
        ge=1024 * 1024,
        le=1024 * 1024 * 1024,
        description="Raw pixel bytes one Ray task prepares. Default 16 MiB: bounds a worker's "
        "memory and spreads one series over all cores.",
    )
    max_attempts: int = Field(
        default=3, ge=1, le=20, description="Tries before a work item is FAILED. Default 3."
    )
    retry_base_s: float = Field(
        default=2.0, gt=0, description="Seconds before the first retry; doubles. Default 2."
    )
    retry_cap_s: float = Field(
        default=300.0, gt=0, description="Longest delay between tries in seconds. Default 300."
    )
    node_concurrency: int = Field(
        default=10,
        ge=1,
        le=1000,
        description="Work items a node runs at once, PREPARE apart (its cores). Default 10.",
    )
    reserved_slots: int = Field(
        default=2,
        ge=0,
        description="Of node_concurrency, kept for high and stat priority. Default 2.",
    )
    heavy_slots: int = Field(
        default=4,
        ge=1,
        description="Of node_concurrency, at most for memory-heavy kinds of work. Default 4.",
    )
    node_lost_s: float = Field(
        default=15.0,
        ge=5,
        le=3600,
        description="Seconds without a heartbeat after which a node counts as lost and its work "
        "is given to others. Default 15: longer than the master's restart and a busy moment.",
    )
    max_deaths: int = Field(
        default=10,
        ge=1,
        description="Times in a row that a node may die on a work item before it is FAILED. "
        "Default 10.",
    )
    stalled_after_s: float = Field(
        default=600.0,
        ge=10,
        description="Seconds without a finished item, although work is due, after which the queue "
        "is shown as stalled. Default 600.",
    )
    items_days: float = Field(
        default=30.0,
        gt=0,
        description="Days that finished work items stay in the task list; then they are kept as "
        "Parquet. Default 30.",
    )
    seal_after_s: float = Field(
        default=3600.0,
        ge=0,
        description="Seconds after its last change that a prepared study is sealed: its instances "
        "leave the index for one manifest object a series. Default 3600.",
    )
    allotment_bytes: int = Field(
        default=1024 * 1024 * 1024,
        ge=1024 * 1024,
        description="Bytes of a tier granted to a node beforehand, so that receiving never waits "
        "for the master. Default 1 GiB.",
    )
    compression: tuple[CompressionRule, ...] = Field(
        default=(),
        description="Compression rules, first match wins; `raypacs rules test` tries them. Default "
        "none: integer images become HTJ2K, everything else is copied.",
    )
    thresholds: Thresholds = Field(
        default=Thresholds(),
        description="`[thresholds]`: hours of space left at which caches become amber or red.",
    )
    alarms: AlarmSettings = Field(
        default=AlarmSettings(), description="`[alarms]`: who is told of trouble, and how."
    )
    staging: tuple[StagingRule, ...] = Field(
        default=(),
        description="`[[staging]]`: what is copied or deleted at which level. Default none: on "
        "amber and red the least recently accessed studies that may go leave.",
    )
    series_shares: tuple[SeriesShare, ...] = Field(
        default=(), description="`[[series_shares]]`: types of series that are kept. Default none."
    )
    eviction: EvictionSettings = Field(
        default=EvictionSettings(), description="`[eviction]`: how studies leave caches."
    )
    archive: ArchiveSettings = Field(
        default=ArchiveSettings(), description="`[archive]`: copies into libraries."
    )
    migration: MigrationSettings = Field(
        default=MigrationSettings(), description="`[migration]`: between image tiers."
    )
    restore: RestoreSettings = Field(
        default=RestoreSettings(), description="`[restore]`: back from libraries."
    )
    prefetch: tuple[PrefetchRule, ...] = Field(
        default=(), description="`[[prefetch]]`: relevant priors. Default none."
    )
    sources: tuple[SourceSettings, ...] = Field(
        default=(), description="`[[sources]]`: what is done with studies of a sender."
    )
    rules: tuple[ArrivalRule, ...] = Field(
        default=(), description="`[[rules]]`: what is done with studies by DICOM attributes."
    )
    statistics_tier: str = Field(
        default="",
        description="Tier that statistics are written to as Parquet, below `statistics/`: any of "
        "raypacs' own that takes new objects; a library or image tier on a NAS or S3 is seen by "
        "all. Default: the folder `stats` in the data folder of the master's node. See "
        "[statistics.md](statistics.md).",
    )
    max_instance_bytes: int = Field(
        default=4 * 1024**3,
        ge=1024,
        description="Largest object accepted, in bytes; a deflated data set counts inflated too. "
        "Default 4 GiB.",
    )
    inline_value_bytes: int = Field(
        default=1024,
        ge=0,
        description="Binary values longer than this become BulkDataURI in metadata (PS3.18 F.2.2). "
        "Default 1024 bytes.",
    )

    @model_validator(mode="after")
    def _tiers(self) -> Settings:
        check_own(self.thresholds, ((tier.name, tier.thresholds) for tier in self.tiers))
        name = self.statistics_tier
        if name and not any(tier.name == name and tier.takes_new for tier in self.tiers):
            raise ValueError(
                f"statistics_tier: {name!r} is no tier that takes new objects: name another, or "
                "none, before it is drained or removed"
            )
        return self

    @model_validator(mode="after")
    def _arrival(self, info: ValidationInfo) -> Settings:
        """What arrives goes to tiers and by compression rules that there are."""
        if (self.sources or self.rules) and not is_stored(info):
            own = [tier for tier in self.tiers if tier.role == "image" and not tier.adopted]
            names = [tier.name for tier in own]
            check_arrival(self.sources, self.rules, names, [rule.name for rule in self.compression])
        return self


def default_tiers(data_dir: Path) -> tuple[TierSettings, ...]:
    """Image and web tier of the embedded deployment, below ``data_dir``."""
    base = data_dir.absolute()
    return (
        TierSettings(name="image1", role="image", url=(base / "image").as_uri()),
        TierSettings(name="web1", role="web", url=(base / "web").as_uri()),
    )


def load_bootstrap(path: Path | None, overrides: dict[str, Any] | None = None) -> Bootstrap:
    """Read ``raypacs.toml``; without a file the embedded defaults hold.

    Raises:
        ConfigError: unreadable, not TOML, an unknown key (with the nearest known name) or a bad
            value; names the file and the key.
    """
    values: dict[str, Any] = {}
    where = "command line"
    if path is not None:
        where = str(path)
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as exc:
            raise ConfigError(f"{path}: {exc.strerror}", file=str(path)) from exc
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
            raise ConfigError(f"{path}: not valid TOML: {exc}", file=str(path)) from exc
    values |= {key: value for key, value in (overrides or {}).items() if value is not None}
    return parse(Bootstrap, values, where)
