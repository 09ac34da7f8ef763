"""What may be asked of the planner: a simulation, or the size of caches (FEATURES B14, F4)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from raypacs.autopilot.base import Strict
from raypacs.autopilot.staging import StagingRule
from raypacs.parsing import size_bytes

MOST_DAYS = 1830
MOST_STUDIES = 2_000_000
"""Studies of a synthetic load, its history included: some hundred megabytes of memory."""


def _above_0(value: int) -> int:
    if value <= 0:
        raise ValueError("a size above 0 is needed, such as 20TB")
    return value


Size = Annotated[int, BeforeValidator(size_bytes), Field(ge=0)]
Capacity = Annotated[int, BeforeValidator(size_bytes), AfterValidator(_above_0)]


class Watermark(Strict):
    """A fixed-percentage policy, for comparison."""

    high: float = Field(gt=0, le=100, description="Percent full at which freeing begins.")
    low: float = Field(gt=0, le=100, description="Percent full at which it ends; below `high`.")

    @model_validator(mode="after")
    def _low_below_high(self) -> Watermark:
        if self.low >= self.high:
            raise ValueError(f"low ({self.low:g} %) must be below high ({self.high:g} %)")
        return self


class Outage(Strict):
    """A time in which something stands still."""

    first_day: float = Field(ge=0, description="Days from the start of the simulation.")
    days: float = Field(gt=0, description="How long.")


class SimulationOrder(Strict):
    """A simulation: the load, the caches, and what is other than in the settings."""

    days: float = Field(
        default=90.0, gt=0, le=MOST_DAYS, description="Days that are simulated. Default 90."
    )
    capacity_bytes: tuple[Capacity, ...] = Field(
        default=(),
        max_length=8,
        description="Capacity of each image cache, in their order, in bytes or as `20TB`. Default: "
        "those of the settings, where they are given there.",
    )
    web_capacity_bytes: Size = Field(
        default=0, description="Capacity of the web cache. Default 0: none is simulated."
    )
    load: Literal["auto", "recorded", "synthetic"] = Field(
        default="auto",
        description="`recorded`: the events of the statistics; `synthetic`: a hospital of "
        "600 beds, scaled; `auto`: recorded where at least two weeks are. Default auto.",
    )
    studies_per_day: float = Field(
        default=0.0,
        ge=0,
        le=100_000,
        description="Of the synthetic load. Default 0: about 400, as a hospital of 600 beds.",
    )
    bytes_per_study: Size = Field(
        default=0, description="Mean of the synthetic load. Default 0: about 85 MB."
    )
    growth_per_year: float = Field(
        default=0.05, ge=-0.9, le=10, description="Of the synthetic load. Default 0.05."
    )
    history_days: float = Field(
        default=1095.0,
        ge=0,
        le=3660,
        description="Days before the start whose studies fill the caches. Default 1095.",
    )
    seed: int = Field(default=1, ge=0, lt=2**32, description="Same seed, same load. Default 1.")
    change: dict[str, float | str] = Field(
        default={},
        description="What is other than in the settings: `amber`, `red`, `web`, `amber_night`, "
        "`red_night`, `web_night` (hours), `hysteresis`, `window_start`, `window_end` (HH:MM), "
        "`time_zone`, `minimum_age_h`.",
    )
    staging: tuple[StagingRule, ...] | None = Field(
        default=None, description="Staging rules instead of those in the settings."
    )
    archive_rate: Size = Field(
        default=200_000_000, description="Bytes a second into libraries. Default 200 MB."
    )
    archive_outages: tuple[Outage, ...] = Field(
        default=(), max_length=32, description="When nothing is archived. Default none."
    )
    prefetch: int = Field(
        default=0,
        ge=0,
        le=20,
        description="Priors of the patient brought back when a study arrives. Default 0.",
    )
    order: Literal["lru", "s3-fifo", "gdsf", "gdsf-sqrt", "offline", "offline-size"] = Field(
        default="lru",
        description="Order of eviction. raypacs itself evicts by `lru`; others to compare.",
    )
    watermark: Watermark | None = Field(
        default=None, description="Free by fixed percentages instead of hours, to compare."
    )
    start: Literal["full", "empty"] = Field(
        default="full", description="Caches at the start: as after years, or empty. Default full."
    )
    step_minutes: float = Field(default=60.0, ge=5, le=360, description="Default 60.")
    track: bool = Field(default=False, description="Also a value a step of each cache.")

    @model_validator(mode="after")
    def _not_too_much(self) -> SimulationOrder:
        studies = (self.studies_per_day or 400) * (self.days + self.history_days)
        if studies > MOST_STUDIES:
            raise ValueError(
                f"{studies:,.0f} studies are too many: at most {MOST_STUDIES:,} (studies_per_day x "
                "(days + history_days))"
            )
        if self.days * 24 * 60 / self.step_minutes > 100_000:
            raise ValueError("more than 100,000 steps: fewer days, or longer steps")
        return self


class SizeOrder(Strict):
    """An expected load and the days to keep."""

    studies_per_day: float = Field(
        default=0.0, ge=0, le=1e7, description="Expected. Needed unless `measured`."
    )
    bytes_per_study: Size = Field(
        default=0, description="Expected mean, in bytes or as `300MB`. Needed unless `measured`."
    )
    days: float = Field(default=28.0, gt=0, le=36600, description="Days to keep. Default 28.")
    web_days: float = Field(
        default=0.0, ge=0, le=36600, description="Of the web cache. Default 0: as `days`."
    )
    web_ratio: float = Field(
        default=0.0,
        ge=0,
        le=10,
        description="Bytes of the wavelet form a byte received. Default 0: as measured with "
        "`measured`, else 0.45.",
    )
    library_ratio: float = Field(
        default=1.0, gt=0, le=10, description="Bytes in a library a byte received. Default 1."
    )
    load_margin: float = Field(
        default=1.3, ge=1, le=100, description="For days above the mean, and growth. Default 1.3."
    )
    space_margin: float = Field(
        default=1.1, ge=1, le=100, description="For what a cache never fills. Default 1.1."
    )
    measured: bool = Field(
        default=False,
        description="Take studies a day, bytes a study and the web form from the statistics "
        "(what is given goes before). Default false.",
    )
