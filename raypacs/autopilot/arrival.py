"""Sources, and rules on arrival and later (FEATURES B6, C13)."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from raypacs.autopilot.base import Strict
from raypacs.autopilot.conditions import checked_networks, normalised, within
from raypacs.compression import is_stored, matches

_LONGEST_NAME = 64
_FORMS = ("htj2k", "copy")

Origin = tuple[str, str]
"""Source (calling AE title, or other door) and address of who sent instances of a study."""

ANY_ORIGIN: Origin = ("*", "*")
"""Stands for further senders, of which nothing is known."""


class SourceSettings(Strict):
    """What is done with studies of a sender; the first source that matches decides."""

    name: str = Field(description="Name of the source, 1 to 64 characters.")
    ae_titles: tuple[str, ...] = Field(
        default=(),
        description="Calling AE titles, or what STOW-RS and ingest gave as source; with `*` and "
        "`?`. Default any.",
    )
    addresses: tuple[str, ...] = Field(
        default=(),
        description="Addresses and networks (`192.0.2.7`, `10.1.0.0/16`, IPv6 too) it sends from. "
        "With `ae_titles` both must match. Default any.",
    )
    tls_subjects: tuple[str, ...] = Field(
        default=(),
        description="Kept for subjects of TLS certificates. Not taken in this version, as "
        "listeners without TLS see none.",
    )
    archiving: bool = Field(
        default=True,
        description="Whether its studies are copied into libraries. `false` lets its studies leave "
        "the caches without any copy, so it needs `addresses`: anybody can call with an AE title. "
        "Default true.",
    )
    retention_days: float = Field(
        default=0.0,
        ge=0,
        description="Days after a study of it was last received until it is deleted everywhere. "
        "Of several senders the longest counts. Default 0: never.",
    )
    target_tier: str = Field(
        default="",
        description="Image tier its objects are written to first, where it has room. Default: as "
        "for all.",
    )
    compression: str = Field(
        default="",
        description="How its studies are prepared: `htj2k`, `copy`, or the name of a compression "
        "rule that then counts whatever its conditions. Default: as for all.",
    )

    @field_validator("name")
    @classmethod
    def _some_name(cls, value: str, info: ValidationInfo) -> str:
        return _checked_name(value, info)

    @model_validator(mode="after")
    def _can_be(self, info: ValidationInfo) -> SourceSettings:
        if is_stored(info):
            return self
        where = f"source {self.name!r}"
        checked_networks(self.addresses, f"{where}: addresses")
        if not all(one.strip() for one in self.ae_titles):
            raise ValueError(f"{where}: ae_titles: an AE title has at least one character")
        if self.tls_subjects:
            raise ValueError(
                f"{where}: tls_subjects: this version has no TLS listener that could tell the "
                "subject of a sender, so nothing would ever match; leave it out"
            )
        if not self.archiving and not self.addresses:
            raise ValueError(
                f"{where}: archiving = false needs addresses: an AE title alone proves nothing, as "
                "anybody can call with it, and studies of this source are deleted without a copy"
            )
        if not (self.ae_titles or self.addresses):
            raise ValueError(f"{where}: give ae_titles, addresses or both, else it is everybody")
        return self


class ArrivalRule(Strict):
    """What is done with studies whose DICOM attributes match.

    Rules are asked in their order. Of all that match, the first that says something about an
    action decides it; routes add up. After a rule with `last` no further one is asked.
    """

    name: str = Field(description="Name shown as the reason, 1 to 64 characters.")
    when: dict[str, Any] = Field(
        default={},
        description="`[rules.when]`: conditions that must all hold: keyword or tag = value, list "
        "of values, or range ([rules.md](rules.md)). Those on series must hold for one and the "
        "same series. Default: every study.",
    )
    unless: dict[str, Any] = Field(
        default={},
        description="`[rules.unless]`: conditions of which none may hold. Default none.",
    )
    route: tuple[str, ...] = Field(
        default=(), description="Names of destinations it is to be sent to. Default none."
    )
    compress: str = Field(
        default="",
        description="How it is prepared: `htj2k`, `copy`, or the name of a compression rule that "
        "then counts whatever its conditions. Default: as for all.",
    )
    keep_days: float = Field(
        default=0.0,
        ge=0,
        description="Days after it was last received in which it is pinned. Default 0: not pinned.",
    )
    tier: str = Field(
        default="", description="Image tier it is moved to. Default: it stays where it is."
    )
    delete_after_days: float = Field(
        default=0.0,
        ge=0,
        description="Days after it was last received until it is deleted everywhere, libraries "
        "too. Goes before `retention_days` of its source. Default 0: not by this rule.",
    )
    priority: Literal["", "low", "medium", "high"] = Field(
        default="", description="Priority of its preparation. Default: as for all."
    )
    last: bool = Field(
        default=False, description="Ask no further rule where this one matches. Default false."
    )

    @field_validator("name")
    @classmethod
    def _some_name(cls, value: str, info: ValidationInfo) -> str:
        return _checked_name(value, info)

    @field_validator("when", "unless", mode="before")
    @classmethod
    def _conditions(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, dict):
            return value
        if is_stored(info):
            return {key: _listed(one) for key, one in value.items()}
        name = info.data.get("name", "?")
        return normalised(value, f"rule {name!r}: {info.field_name}")

    @model_validator(mode="after")
    def _does_something(self, info: ValidationInfo) -> ArrivalRule:
        if is_stored(info):
            return self
        where = f"rule {self.name!r}"
        if not self.says and not self.last:
            raise ValueError(
                f"{where} does nothing: give one of route, compress, keep_days, tier, "
                "delete_after_days, priority, last"
            )
        if 0 < self.delete_after_days < self.keep_days:
            raise ValueError(
                f"{where}: keep_days ({self.keep_days:g}) is more than delete_after_days "
                f"({self.delete_after_days:g}): it cannot be kept longer than it exists"
            )
        for key in self.when.keys() & self.unless.keys():
            if set(self.when[key]) <= set(self.unless[key]):
                raise ValueError(f"{where}: unless.{key} takes away all that when.{key} wants")
        return self

    @property
    def says(self) -> tuple[str, ...]:
        """The names of the actions that it has something to say about."""
        names = ("route", "compress", "keep_days", "tier", "delete_after_days", "priority")
        return tuple(name for name in names if getattr(self, name))


def _checked_name(value: str, info: ValidationInfo) -> str:
    if not 1 <= len(value) <= _LONGEST_NAME and not is_stored(info):
        raise ValueError(f"a name has 1 to {_LONGEST_NAME} characters")
    return value


def _listed(value: Any) -> tuple[str, ...]:
    values = value if isinstance(value, list | tuple) else [value]
    return tuple(str(one) for one in values)


def check(
    sources: Sequence[SourceSettings],
    rules: Sequence[ArrivalRule],
    image_tiers: Iterable[str],
    compression: Iterable[str],
) -> None:
    """See that sources and rules agree with each other and with the other settings.

    ``image_tiers``: names of image tiers of raypacs' own; ``compression``: names of
    compression rules.

    Raises:
        ValueError: two of a name, no such tier or compression rule, or a rule that is never asked.
    """
    tiers, forms = tuple(image_tiers), (*_FORMS, *compression)
    for what, named in (("source", sources), ("rule", rules)):
        names = [one.name for one in named]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"two {what}s have the name {twice!r}")
    for source in sources:
        where = f"source {source.name!r}"
        _known(source.target_tier, tiers, f"{where}: target_tier", "image tier of raypacs' own")
        _known(source.compression, forms, f"{where}: compression", "compression rule or form")
    ended = ""
    for rule in rules:
        where = f"rule {rule.name!r}"
        if ended:
            raise ValueError(
                f"{where} is never asked: rule {ended!r} before it matches every study and is last"
            )
        _known(rule.tier, tiers, f"{where}: tier", "image tier of raypacs' own")
        _known(rule.compress, forms, f"{where}: compress", "compression rule or form")
        if rule.last and not rule.when and not rule.unless:
            ended = rule.name


def _known(name: str, known: Sequence[str], where: str, what: str) -> None:
    if not name or name in known:
        return
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known) or 'none'}"
    raise ValueError(f"{where}: no {what} {name!r}; {hint}")


def source_of(sources: Iterable[SourceSettings], source: str, peer: str) -> SourceSettings | None:
    """Return the first source that is this sender; None: there is none."""
    if (source, peer) == ANY_ORIGIN:
        return None
    return next((one for one in sources if _is_from(one, source, peer)), None)


def _is_from(told: SourceSettings, source: str, peer: str) -> bool:
    if told.tls_subjects:  # nothing here knows a sender's certificate
        return False
    if told.ae_titles and not any(matches(one, source) for one in told.ae_titles):
        return False
    return not told.addresses or any(within(one, peer) for one in told.addresses)


def first_tier(sources: Iterable[SourceSettings], source: str, peer: str) -> str:
    """Return the image tier that a sender's objects are written to first; '': no such wish."""
    found = source_of(sources, source, peer)
    return found.target_tier if found is not None else ""
