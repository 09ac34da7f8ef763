"""How large caches must be for an expected load (FEATURES B14). Pure.

capacity = studies a day x bytes a study x days to keep x 1.3 x 1.1. The first margin is for days
that bring more than the mean (working days after a weekend, growth until disks are bought); the
second for what a cache never fills: the amber hours, and what is on its way out.
"""

from __future__ import annotations

from dataclasses import dataclass

LOAD_MARGIN = 1.3
SPACE_MARGIN = 1.1
DAYS_A_YEAR = 365.25


@dataclass(frozen=True, slots=True)
class Expected:
    """A load, and what is wanted of caches. Sizes in bytes.

    ``web_ratio``: bytes of the wavelet form a byte received; ``library_ratio``: of containers.
    """

    studies_per_day: float
    bytes_per_study: float
    days: float
    web_days: float = 0.0
    """Days to keep in the web cache; 0: as long as in the image cache."""
    web_ratio: float = 0.45
    library_ratio: float = 1.0
    load_margin: float = LOAD_MARGIN
    space_margin: float = SPACE_MARGIN
    amber_h: float = 48.0

    def __post_init__(self) -> None:
        for name in ("studies_per_day", "bytes_per_study", "days", "web_ratio", "library_ratio"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name):g}: it must be above 0")
        for name in ("load_margin", "space_margin"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name):g}: a margin is 1 or more")
        if self.web_days < 0 or self.amber_h < 0:
            raise ValueError("web_days and amber_h are 0 or more")


@dataclass(frozen=True, slots=True)
class Factor:
    """A factor of a product, with its unit and what it is."""

    name: str
    value: float
    unit: str
    why: str = ""


@dataclass(frozen=True, slots=True)
class Size:
    """A size and the factors whose product it is."""

    what: str
    size_bytes: int
    factors: tuple[Factor, ...]


@dataclass(frozen=True, slots=True)
class Sizes:
    """What an expected load needs."""

    bytes_per_day: int
    image: Size
    web: Size
    library_per_year: Size
    amber_bytes: int
    """What comes within the amber hours: the space margin must hold it."""
    notes: tuple[str, ...] = ()


def size(load: Expected) -> Sizes:
    """Return capacities of the image and the web cache, and what the library grows by a year."""
    studies = Factor("studies a day", load.studies_per_day, "1/day")
    each = Factor("bytes a study", load.bytes_per_study, "bytes")
    margins = (
        Factor("margin of load", load.load_margin, "x", "days above the mean, and growth"),
        Factor(
            "margin of space", load.space_margin, "x", "amber hours, and what is on its way out"
        ),
    )
    web = Factor("web form", load.web_ratio, "x", "bytes of the wavelet form a byte received")
    stored = Factor("containers", load.library_ratio, "x", "bytes in a library a byte received")
    web_days = load.web_days or load.days
    image_size = _size(
        "image cache", studies, each, Factor("days to keep", load.days, "days"), *margins
    )
    web_size = _size(
        "web cache", studies, each, web, Factor("days to keep", web_days, "days"), *margins
    )
    year = _size("library, a year", studies, each, stored, Factor("a year", DAYS_A_YEAR, "days"))
    daily = load.studies_per_day * load.bytes_per_study
    amber = daily * load.amber_h / 24
    spare = image_size.size_bytes - image_size.size_bytes / load.space_margin
    notes = []
    if amber > spare:
        notes.append(
            f"the margin of space is less than what comes in {load.amber_h:g} amber hours: the "
            f"cache is freed before it holds {load.days:g} days; keep more days, or take "
            "a larger margin"
        )
    return Sizes(int(daily), image_size, web_size, year, int(amber), tuple(notes))


def _size(what: str, *factors: Factor) -> Size:
    product = 1.0
    for factor in factors:
        product *= factor.value
    return Size(what, round(product), factors)
