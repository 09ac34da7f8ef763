"""Models of processes, nodes, the master, tiers and settings."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, Field

from raypacs.web.models.base import Answer, Request


class Health(Answer):
    """This very process."""

    status: str = Field("ok", description="Always ok: what is not is an error")
    node: str = Field(description="Name of the node")
    version: str = Field(description="Version of raypacs")
    pid: int = Field(description="Process id")


class NodeState(Answer):
    """A node of the cluster."""

    name: str = Field(description="Its name")
    state: str = Field("", description="live, draining, drained, lost, left or refused")
    problems: list[str] = Field(
        default_factory=list, description="Why it gets no work, or not all of it"
    )
    host: str = Field("", description="Address it listens on")
    roles: list[str] = Field(default_factory=list, description="Services it offers")
    cores: int = Field(0, description="CPU cores given to work")
    version: str = Field("", description="Version of raypacs")
    bootstrap_hash: str = Field("", description="Hash of what all nodes must agree on")
    tiers: list[str] = Field(default_factory=list, description="Tiers it reaches")
    kinds: list[str] = Field(default_factory=list, description="Kinds of work it can do")
    dicom_port: int = Field(0, description="TCP port of DICOM, 0 none")
    http_port: int = Field(0, description="TCP port of DICOMweb and REST, 0 none")
    pid: int = Field(0, description="Process id of its node process")
    boot: str = Field("", description="Name of its present life; another one after a restart")
    ray_node_id: str = Field("", description="Ray's id of it")
    running: int = Field(0, description="Work items that it runs")
    draining: bool = Field(False, description="Whether it gets nothing new, as an operator said")
    joined_s: float = Field(0.0, description="Since when; seconds since 1970, UTC")
    seen_s: float = Field(0.0, description="Last heartbeat")
    lost_s: float = Field(0.0, description="When it was declared lost, 0 not")
    left_s: float = Field(0.0, description="When it was stopped in order, 0 not")


class MasterState(Answer):
    """The one master."""

    state: str = Field("", description="running, or away: it does not answer just now")
    node: str = Field("", description="Node it runs on")
    host: str = Field("", description="Host it runs on")
    pid: int | None = Field(None, description="Process id; null while it is away")
    epoch: int = Field(0, description="Number of its reign; only grows")
    since_s: float = Field(0.0, description="When it took over; seconds since 1970, UTC")
    restarts: int = Field(0, description="How often Ray started it again")
    ray_node_id: str = Field("", description="Ray's id of its node")


class MoveMaster(Request):
    """Where the master is to go."""

    to: str = Field("", description="Name of a node of role master; '' any other one")


class MasterMoved(Answer):
    """A move that was ordered; `GET /api/v1/master` says when it is done."""

    model_config = ConfigDict(extra="allow", populate_by_name=True)

    origin: str = Field("", alias="from", description="Node it is on")
    to: str = Field(description="Node it goes to")
    epoch: int = Field(0, description="Epoch of the one that goes; the next one has a later")


class FillRate(Answer):
    """What a tier takes in."""

    studies_per_hour: float
    objects_per_study: float
    bytes_per_object: float
    bytes_per_hour: float


class TierState(Answer):
    """A tier with its account."""

    name: str = Field(description="Its name")
    role: str = Field(description="image, web or library")
    url: str = Field("", description="fsspec URL")
    order: int = Field(1, description="1 is filled first")
    read_only: bool = Field(False, description="Whether it takes no new objects")
    draining: bool = Field(False, description="Whether it is being emptied")
    reachable: bool = Field(True, description="Whether the master reaches it")
    capacity_bytes: int = Field(0, description="What raypacs may use")
    used_bytes: int = Field(0, description="What it uses")
    granted_bytes: int = Field(0, description="What is promised to nodes and not used yet")
    available_bytes: int = Field(0, description="What is left")
    fill_rate: FillRate | None = Field(None, description="null without history")
    hours_left: float | None = Field(
        None, description="At the plain rate; null if it does not fill, or no history"
    )
    level: str = Field("", description="green, amber or red; '' not judged yet, or a library")
    hours_p10: float | None = Field(None, description="Forecast: one time in ten it is full before")
    hours_p50: float | None = Field(None, description="Forecast of the hours left, the middle")
    hours_p90: float | None = Field(None, description="Nine times in ten it is full before")


class Status(Answer):
    """The cluster at a glance."""

    version: str = Field(description="Version of raypacs")
    node: dict[str, Any] = Field(description="The node that answers")
    epoch: int = Field(description="Number of the master's reign")
    since_s: float = Field(0.0, description="When it began; seconds since 1970, UTC")
    settings_version: int = Field(0, description="Version of the settings")
    master: MasterState | None = Field(None, description="The master")
    studies: dict[str, int] = Field(description="received, prepared, waiting, failed")
    instances: dict[str, int] = Field(
        default_factory=dict, description="received, prepared, size_bytes, prepared_bytes"
    )
    aside: dict[str, int] = Field(default_factory=dict, description="Objects kept aside, by why")
    queue: dict[str, dict[str, int]] = Field(
        default_factory=dict, description="Kind to state to number of items"
    )
    nodes: list[NodeState] = Field(default_factory=list, description="Nodes")
    tiers: list[TierState] = Field(default_factory=list, description="Tiers, in their order")


class SettingsVersion(Answer):
    """The settings and their version."""

    version: int = Field(description="Grows with every change")
    settings: dict[str, Any] = Field(description="All settings (docs/configuration.md)")


class AppliedSettings(Answer):
    """The version that was made."""

    version: int = Field(description="Version of the settings")
