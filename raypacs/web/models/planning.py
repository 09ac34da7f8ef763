"""Models of simulations and sizes."""

from __future__ import annotations

from pydantic import Field

from raypacs.web.models.base import Answer


class SimulationLoad(Answer):
    """The load that was run."""

    origin: str = Field(description="recorded or synthetic")
    reads_from: str = Field(description="Where it is from that studies are opened")
    days: float = Field(description="Days simulated")
    studies: int = Field(description="Studies that arrive")
    studies_per_day: float = Field(description="Their mean")
    bytes: int = Field(description="Bytes that arrive")
    bytes_per_day: int = Field(description="Their mean")
    bytes_per_study: int = Field(description="Their mean")
    history_studies: int = Field(description="Studies before the start")
    history_bytes: int = Field(description="Their bytes")
    reads: int = Field(description="Times a study is opened")


class ForecastScore(Answer):
    """Forecasts against what came without eviction; null: nothing could be scored."""

    scored: int = Field(description="Forecasts scored: of at most 14 days")
    error_h: float | None = Field(description="Median absolute error, hours")
    error_percent: float | None = Field(description="Median absolute error, percent of the truth")
    plain_error_h: float | None = Field(description="The same of the plain rate of seven days")
    coverage: float | None = Field(description="Part of the truths between p10 and p90")


class LevelChange(Answer):
    """A change of level."""

    at_s: float = Field(description="When")
    level: str = Field(description="green, amber or red, from then on")


class SimulatedCache(Answer):
    """What came of one cache."""

    name: str = Field(description="image1, image2 ..., web1")
    role: str = Field(description="image or web")
    capacity_bytes: int = Field(description="As ordered")
    fullest_bytes: int = Field(description="Bytes used at most")
    fullest_percent: float = Field(description="The same of the capacity")
    evicted: int = Field(description="Studies evicted")
    evicted_bytes: int = Field(description="Their bytes")
    evicted_by_rule: dict[str, int] = Field(description="Studies by rule")
    hours_at: dict[str, float] = Field(description="Hours at green, amber and red")
    level_changes: list[LevelChange] = Field(description="The level's history")
    forecast: ForecastScore = Field(description="How good its forecasts were")
    least_evictable_h: float | None = Field(
        description="Hours until nothing would have been left that may be evicted, at the worst"
    )
    track: dict[str, list[float | None]] | None = Field(
        None, description="A value a step, where it was asked for"
    )


class Simulated(Answer):
    """What came of a simulation."""

    policy: str = Field(description="What freed caches, in words")
    start_s: float = Field(description="Begin on the virtual clock")
    end_s: float = Field(description="End")
    load: SimulationLoad = Field(description="The load that was run")
    hit_ratio: float | None = Field(description="Part of reads that found it in an image cache")
    older_hit_ratio: float | None = Field(description="The same, studies older than 7 days")
    byte_hit_ratio: float | None = Field(description="The same by bytes")
    web_hit_ratio: float | None = Field(description="Part of reads that found it prepared")
    hours_at_amber: float = Field(description="Hours with an amber image cache, and none red")
    hours_at_red: float = Field(description="Hours with a red image cache")
    counts: dict[str, int] = Field(description="What happened, over all caches (simulation.md)")
    caches: list[SimulatedCache] = Field(description="What came of each cache")


class SizeFactor(Answer):
    """One factor of a size."""

    name: str = Field(description="What it is")
    value: float = Field(description="Its value")
    unit: str = Field(description="1/day, bytes, days or x")
    why: str = Field("", description="What it is for")


class OneSize(Answer):
    """A size and its factors."""

    what: str = Field(description="image cache, web cache, or library a year")
    size_bytes: int = Field(description="Product of the factors")
    factors: list[SizeFactor] = Field(description="What it is the product of")


class Sized(Answer):
    """Sizes for an expected load."""

    bytes_per_day: int = Field(description="Of the load")
    amber_bytes: int = Field(description="What comes within the amber hours")
    measured: dict[str, float] | None = Field(description="What was measured; null: nothing")
    sizes: list[OneSize] = Field(description="Image cache, web cache, library a year")
    notes: list[str] = Field(description="What an operator should know")
