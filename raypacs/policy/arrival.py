"""What is done with a study by its sources and by rules on its attributes (FEATURES B6, C13).

Pure: what is known of a study, sources and rules in; a decision with the name behind each effect
out. Rules are asked in order; of those that match, the first that says something about an action
decides it, routes add up, and a rule with ``last`` ends it. What no rule decides, the study's
sources do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any, Literal

from raypacs.autopilot.arrival import ANY_ORIGIN, Origin, source_of
from raypacs.autopilot.conditions import KEYS, OWN_KEYS, SERIES_KEYS, holds
from raypacs.compression import CompressionRule
from raypacs.config import ArrivalRule, Settings, SourceSettings, parse

MOST_ORIGINS = 20
_DAY_S = 86400.0


# Sources


def archiving_of(origins: Iterable[Sequence[str]], sources: Sequence[SourceSettings]) -> bool:
    """Whether a study is to be archived: False only if every sender has that switched off.

    That takes an address: an AE title alone proves nothing.
    """
    every = [source_of(sources, one[0], one[1]) for one in origins]
    return not every or not all(
        found is not None and not found.archiving and found.addresses for found in every
    )


def joined(before: Iterable[Sequence[str]], new: Iterable[Origin]) -> list[list[str]]:
    """Return the distinct origins of a study that grew, at most so many."""
    found = dict.fromkeys((*((one[0], one[1]) for one in before), *new))
    told = [one for one in found if one != ANY_ORIGIN]
    if len(told) > MOST_ORIGINS or ANY_ORIGIN in found:
        found = dict.fromkeys((*told[:MOST_ORIGINS], ANY_ORIGIN))
    return [list(one) for one in found]


# Rules


@dataclass(frozen=True, slots=True)
class Facts:
    """What rules may go by.

    ``study`` and each of ``series``: DICOM keywords to text or number. ``last_received_s``:
    seconds since the epoch.
    """

    study: Mapping[str, Any]
    series: Sequence[Mapping[str, Any]]
    origins: Sequence[Sequence[str]]
    status: str = "new"
    size_bytes: int = 0
    last_received_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Effect:
    """What is done, and the rule or source that says so."""

    value: Any
    by: str


@dataclass(frozen=True, slots=True)
class Decision:
    """Effects by name: route, compress, keep_until_s, tier, delete_after_s, priority, archiving."""

    effects: Mapping[str, Effect] = field(default_factory=dict)

    def value(self, name: str) -> Any:
        """Return the value of an effect; None: nothing is said."""
        found = self.effects.get(name)
        return None if found is None else found.value

    def as_json(self) -> dict[str, dict[str, Any]]:
        """Return it as the index keeps it."""
        return {name: {"value": one.value, "by": one.by} for name, one in self.effects.items()}


@dataclass(frozen=True, slots=True)
class Explained:
    """What became of one rule: ``failed`` says which conditions do not hold ('()': it matches).

    ``asked`` is False where a rule before it was the last one; ``decides``: the actions that it
    decides, as no rule before it did.
    """

    rule: str
    matches: bool
    failed: tuple[str, ...] = ()
    asked: bool = True
    decides: tuple[str, ...] = ()


def explained(settings: Settings, facts: Facts, now: float) -> dict[str, Any]:
    """Return what becomes of every rule and what is decided, as it is shown."""
    told = [
        {
            "rule": one.rule,
            "matches": one.matches,
            "asked": one.asked,
            "failed": list(one.failed),
            "decides": list(one.decides),
        }
        for one in explain(settings.rules, facts, now)
    ]
    senders = []
    for source, address in facts.origins:
        found = source_of(settings.sources, source, address)
        name = found.name if found is not None else ""
        senders.append({"source": source, "address": address, "settings": name})
    return {
        "rules": told,
        "senders": senders,
        "archiving": archiving_of(facts.origins, settings.sources),
        "decided": decide(settings, facts, now).as_json(),
    }


def explained_of(settings: Settings, described: Mapping[str, Any], now: float) -> dict[str, Any]:
    """Return the same for a study that need not be stored.

    ``described``: study, series, source, address, status, size_bytes; ``rules`` and ``sources`` as
    in the settings (None: those in force).

    Raises:
        ConfigError: a rule or source is wrong.
    """
    given: dict[str, Any] = {}
    if described.get("rules") is not None:
        given["rules"] = tuple(parse(ArrivalRule, one, "rules") for one in described["rules"])
    if described.get("sources") is not None:
        told = described["sources"]
        given["sources"] = tuple(parse(SourceSettings, one, "sources") for one in told)
    known = Facts(
        study=described["study"],
        series=described["series"],
        origins=[(described["source"], described["address"])],
        status=described["status"],
        size_bytes=described["size_bytes"],
        last_received_s=now,
    )
    return explained(settings.model_copy(update=given), known, now)


def decide(settings: Settings, facts: Facts, now: float) -> Decision:
    """Return what is to be done with a study."""
    effects: dict[str, Effect] = {}
    for rule in _matching(settings.rules, facts, now):
        for name, value in _said(rule, facts).items():
            if name == "route":
                before = effects[name].value if name in effects else []
                more = [one for one in value if one not in before]
                by = f"{effects[name].by}, {rule.name}" if name in effects else f"rule {rule.name}"
                if more:
                    effects[name] = Effect([*before, *more], by)
            else:
                effects.setdefault(name, Effect(value, f"rule {rule.name}"))
    for name, effect in _by_sources(settings.sources, facts).items():
        effects.setdefault(name, effect)
    return Decision(effects)


def explain(rules: Sequence[ArrivalRule], facts: Facts, now: float) -> list[Explained]:
    """Return what becomes of every rule, and why."""
    told: list[Explained] = []
    decided: set[str] = set()
    routes: list[str] = []
    ended = False
    for rule in rules:
        if ended:
            told.append(Explained(rule.name, matches=False, asked=False))
            continue
        failed = tuple(failures(rule, facts, now))
        new = [one for one in rule.route if one not in routes]
        mine = () if failed else tuple(name for name in rule.says if name not in decided)
        mine = tuple(name for name in mine if name != "route" or new)
        if not failed:
            routes += new
        decided |= set(mine) - {"route"}
        told.append(Explained(rule.name, matches=not failed, failed=failed, decides=mine))
        ended = rule.last and not failed
    return told


def _matching(rules: Iterable[ArrivalRule], facts: Facts, now: float) -> Iterator[ArrivalRule]:
    for rule in rules:
        if next(failures(rule, facts, now), None) is None:
            yield rule
            if rule.last:
                return


def failures(rule: ArrivalRule, facts: Facts, now: float) -> Iterator[str]:
    """Yield why a rule does not match a study; nothing where it does."""
    of_series: dict[str, Sequence[str]] = {}
    for key in (*rule.when, *rule.unless):
        if key not in KEYS:  # an earlier version took it
            yield f"there is no key {key}"
            return
    for key, alternatives in rule.when.items():
        if key in SERIES_KEYS:
            of_series[key] = alternatives
            continue
        values = list(_values(key, facts, now))
        if not _any(key, alternatives, values):
            yield f"{key} is {_told(values)}, not {' or '.join(alternatives)}"
    if of_series and not any(_series_has(one, of_series) for one in facts.series):
        wanted = ", ".join(f"{key} {' or '.join(of_series[key])}" for key in of_series)
        yield f"no series has {wanted}"
    for key, alternatives in rule.unless.items():
        values = list(_values(key, facts, now))
        if _any(key, alternatives, values):
            yield f"{key} is {_told(values)}: unless {' or '.join(alternatives)}"


def _series_has(series: Mapping[str, Any], wanted: Mapping[str, Sequence[str]]) -> bool:
    return all(
        _any(key, alternatives, [_typed(key, series.get(key))])
        for key, alternatives in wanted.items()
    )


def _any(key: str, alternatives: Iterable[str], values: Sequence[Any]) -> bool:
    return any(holds(key, one, value) for one in alternatives for value in values)


def _told(values: Sequence[Any]) -> str:
    shown = sorted({str(value) for value in values if value not in ("", None)})
    return ", ".join(shown[:5]) + (" ..." if len(shown) > 5 else "") if shown else "not known"


def _values(key: str, facts: Facts, now: float) -> Iterator[Any]:
    """Yield the values that a key has in a study: text, number, day or age in days."""
    if key in SERIES_KEYS:
        for series in facts.series:
            yield _typed(key, series.get(key))
    elif key not in OWN_KEYS:
        value = facts.study.get(key)
        if key == "ModalitiesInStudy":
            yield from (one for one in str(value or "").split("\\") if one)
        else:
            yield _typed(key, value)
    elif key in ("source", "address"):
        for origin in facts.origins:
            yield origin[0] if key == "source" else origin[1]
    elif key == "status":
        yield facts.status
    elif key == "size_bytes":
        yield float(facts.size_bytes)
    else:
        yield _age(key, facts, now)


def _age(key: str, facts: Facts, now: float) -> float | None:
    """Return a patient's age at the study, or that of the study, in days."""
    studied = _day(facts.study.get("StudyDate"))
    if key == "study_age":
        today = datetime.fromtimestamp(now, UTC).date().toordinal()
        return None if studied is None else today - studied
    born = _day(facts.study.get("PatientBirthDate"))
    if studied is None and born is not None:
        studied = float(datetime.fromtimestamp(facts.last_received_s, UTC).date().toordinal())
    return None if born is None or studied is None else studied - born


def _typed(key: str, value: Any) -> Any:
    """Return a value as its kind: text, number, or number of a day; None where it is none."""
    if value is None or value == "":
        return None
    kind = KEYS[key]
    if kind == "date":
        return _day(value)
    if kind == "number":
        try:
            return float(value)
        except (TypeError, ValueError):
            return None
    return str(value)


def _day(value: Any) -> float | None:
    try:
        return float(date.fromisoformat(str(value or "").replace(".", "")).toordinal())
    except ValueError:
        return None


def _said(rule: ArrivalRule, facts: Facts) -> dict[str, Any]:
    """Return what a rule that matches wants, by effect."""
    found: dict[str, Any] = {}
    if rule.route:
        found["route"] = list(rule.route)
    for name, value in (("compress", rule.compress), ("tier", rule.tier)):
        if value:
            found[name] = value
    if rule.priority:
        found["priority"] = rule.priority
    if rule.keep_days:
        found["keep_until_s"] = facts.last_received_s + rule.keep_days * _DAY_S
    if rule.delete_after_days:
        found["delete_after_s"] = facts.last_received_s + rule.delete_after_days * _DAY_S
    return found


def _by_sources(sources: Sequence[SourceSettings], facts: Facts) -> dict[str, Effect]:
    """Return what the senders want: of retentions the longest counts, and all must have one."""
    found: dict[str, Effect] = {}
    every = [source_of(sources, one[0], one[1]) for one in facts.origins]
    known = [one for one in every if one is not None]
    if known and known[0].compression:
        found["compress"] = Effect(known[0].compression, f"source {known[0].name}")
    if every and len(known) == len(every) and all(one.retention_days for one in known):
        longest = max(known, key=lambda one: one.retention_days)
        at_s = facts.last_received_s + longest.retention_days * _DAY_S
        found["delete_after_s"] = Effect(at_s, f"source {longest.name}")
    return found


# Compression


def compression_for(
    compression: Sequence[CompressionRule], wanted: str
) -> tuple[CompressionRule, ...]:
    """Return the compression rules of a study for which a rule or source wants one of them.

    ``wanted``: ``htj2k``, ``copy``, the name of a rule that then counts whatever its conditions,
    or '' (as well as a name that is gone): as they are.
    """
    given = tuple(compression)
    if wanted in ("htj2k", "copy"):
        form: Literal["htj2k", "copy"] = "copy" if wanted == "copy" else "htj2k"
        return (CompressionRule(name=wanted, action=form), *given)
    named = next((rule for rule in given if rule.name == wanted), None)
    if named is None:
        return given
    freed = CompressionRule(
        name=named.name, action=named.action, ratio=named.ratio, psnr_db=named.psnr_db
    )
    return (freed, *given)
