"""Which priors of a patient are relevant for a study that arrived, or is announced. Pure.

(FEATURES B7: a study that is prefetched is treated as if it were as old, and as recently accessed,
as the one it is fetched for.)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from raypacs.autopilot.moving import PrefetchRule

DAY_S = 86_400.0
MOST_PRIORS = 20
"""For one study, whatever the rules say."""


@dataclass(frozen=True, slots=True)
class Announced:
    """The study that priors are fetched for.

    ``at_s``: when it arrived. Modalities and body parts may be several, joined by backslashes;
    ``study_date`` is as DICOM has it (YYYYMMDD), '' where nothing tells.
    """

    patient_id: str
    modality: str
    body_part: str
    at_s: float
    study_uid: str = ""
    study_date: str = ""


@dataclass(frozen=True, slots=True)
class Prior:
    """Another study of the patient. Modalities and body parts are joined by backslashes."""

    study_uid: str
    modality: str
    body_part: str
    study_date: str
    created_s: float


@dataclass(frozen=True, slots=True)
class Chosen:
    """A prior that is to be fetched, and the rule that wants it."""

    study_uid: str
    rule: str
    web: bool
    priority: str


def choose(
    announced: Announced, priors: Iterable[Prior], rules: Sequence[PrefetchRule]
) -> list[Chosen]:
    """Return the priors that the rules want, each once, by its first rule; the newest first.

    A patient without an ID has no priors: nobody knows whose they are.
    """
    if not announced.patient_id:
        return []
    newest = sorted(priors, key=lambda one: (-_day_s(one.study_date, one.created_s), one.study_uid))
    found: dict[str, Chosen] = {}
    for rule in rules:
        if not _applies(rule, announced):
            continue
        wanted = [one for one in newest if _wants(rule, announced, one)][: rule.number]
        for one in wanted:
            web = rule.into == "image and web"
            found.setdefault(one.study_uid, Chosen(one.study_uid, rule.name, web, rule.priority))
    return list(found.values())[:MOST_PRIORS]


def _applies(rule: PrefetchRule, announced: Announced) -> bool:
    return _any(rule.when_modality, announced.modality) and _any(
        rule.when_body_part, announced.body_part
    )


def _wants(rule: PrefetchRule, announced: Announced, prior: Prior) -> bool:
    if prior.study_uid == announced.study_uid:
        return False
    age_s = _day_s(announced.study_date, announced.at_s) - _day_s(prior.study_date, prior.created_s)
    # What is dated later than the new study is no prior; one of the same day is.
    if not -DAY_S < age_s <= rule.max_age_days * DAY_S:
        return False
    return _same(rule.modality, announced.modality, prior.modality) and _same(
        rule.body_part, announced.body_part, prior.body_part
    )


def _same(wanted: tuple[str, ...] | str, new: str, prior: str) -> bool:
    if wanted == "any":
        return True
    if wanted == "same":
        return bool(_values(new) & _values(prior))
    return _any(tuple(wanted), prior)


def _any(wanted: tuple[str, ...], value: str) -> bool:
    return not wanted or bool({one.upper() for one in wanted} & _values(value))


def _values(text: str) -> set[str]:
    return {one.strip().upper() for one in text.split("\\") if one.strip()}


def _day_s(study_date: str, otherwise_s: float) -> float:
    """Return a study date as seconds since the epoch; ``otherwise_s`` where there is none."""
    try:
        return datetime.strptime(study_date, "%Y%m%d").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return otherwise_s
