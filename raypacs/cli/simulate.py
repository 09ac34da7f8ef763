"""Commands `cache simulate` and `cache size`: before disks are bought or a threshold is changed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import progress as bars
from rich.markup import escape
from rich.table import Table

from raypacs.autopilot.planning import SimulationOrder, SizeOrder
from raypacs.cli.session import Json, Session, amount, columns, moment, session_of
from raypacs.cli.settings import read_settings
from raypacs.config import Settings, parse
from raypacs.errors import ConfigError, NodeNotRunning
from raypacs.simulating import orders, plot, recorded, tables

_NUMBERS = frozenset({"hours", "studies", "bytes", "value", "size"})


Days = Annotated[float, typer.Option(help="Days that are simulated.")]
Capacity = Annotated[
    list[str] | None,
    typer.Option(help="Capacity of an image cache (20TB); again for a second one."),
]
WebCapacity = Annotated[str, typer.Option(help="Capacity of the web cache. Default: none.")]
Change = Annotated[
    list[str] | None,
    typer.Option("--set", help="KEY=VALUE, other than in the settings: amber, red, web ..."),
]
LoadOf = Annotated[str, typer.Option(help="auto, recorded or synthetic.")]
Record = Annotated[
    Path | None, typer.Option(help="Folder of statistics. Default: of the data folder.")
]
SettingsFile = Annotated[
    Path | None, typer.Option(help="Settings file. Default: those in force, if a node runs.")
]
StudiesPerDay = Annotated[
    float, typer.Option(help="Of the synthetic load. Default: as of 600 beds, about 390.")
]
BytesPerStudy = Annotated[str, typer.Option(help="Mean of the synthetic load.")]
Growth = Annotated[float, typer.Option(help="Of the synthetic load, a year.")]
Seed = Annotated[int, typer.Option(help="Of the synthetic load.")]
ArchiveRate = Annotated[str, typer.Option(help="Bytes a second into libraries.")]
Outages = Annotated[
    list[str] | None,
    typer.Option("--outage", help="DAY+DAYS: from then on nothing is archived for so many days."),
]
Prefetch = Annotated[int, typer.Option(help="Priors brought back when a study arrives.")]
OrderName = Annotated[str, typer.Option(help="lru, s3-fifo, gdsf, offline ..., to compare.")]
Marks = Annotated[
    str, typer.Option(help="HIGH/LOW percent: free by fixed percentages, to compare.")
]
Empty = Annotated[bool, typer.Option("--empty", help="Begin with empty caches.")]
Step = Annotated[float, typer.Option(help="Minutes of a step.")]
Out = Annotated[
    Path | None, typer.Option(help="Write a row a step to this file, .parquet or .csv.")
]
PlotFile = Annotated[
    Path | None,
    typer.Option("--plot", help="Draw to this file, .svg; of further caches beside it."),
]
OnNode = Annotated[
    bool, typer.Option("--on-node", help="Let the node do it, on its recorded load.")
]


def simulate(  # noqa: PLR0913 - one argument an option
    context: typer.Context,
    days: Days = 90.0,
    capacity: Capacity = None,
    web_capacity: WebCapacity = "0",
    change: Change = None,
    load: LoadOf = "auto",
    record: Record = None,
    settings: SettingsFile = None,
    studies_per_day: StudiesPerDay = 0.0,
    bytes_per_study: BytesPerStudy = "0",
    growth: Growth = 0.05,
    seed: Seed = 1,
    archive_rate: ArchiveRate = "200MB",
    outage: Outages = None,
    prefetch: Prefetch = 0,
    order: OrderName = "lru",
    watermark: Marks = "",
    empty: Empty = False,
    step: Step = 60.0,
    out: Out = None,
    plot_file: PlotFile = None,
    on_node: OnNode = False,
    as_json: Json = False,
) -> None:
    """Run the policies of the autopilot over a recorded or synthetic load, on a virtual clock.

    Nothing of the cluster is changed; none need run.
    """
    session = session_of(context, as_json)
    asked: dict[str, Any] = {
        "days": days,
        "capacity_bytes": capacity or [],
        "web_capacity_bytes": web_capacity,
        "load": load,
        "studies_per_day": studies_per_day,
        "bytes_per_study": bytes_per_study,
        "growth_per_year": growth,
        "seed": seed,
        "change": dict(_pair(one) for one in change or ()),
        "archive_rate": archive_rate,
        "archive_outages": [_outage(one) for one in outage or ()],
        "prefetch": prefetch,
        "order": order,
        "watermark": _watermark(watermark),
        "start": "empty" if empty else "full",
        "step_minutes": step,
    }
    wanted = parse(SimulationOrder, asked, "simulation")
    files = _Files(record, out, plot_file)
    if on_node:
        _on_node(session, wanted, files)
    else:
        _here(session, wanted, files, settings)


@dataclass(frozen=True)
class _Files:
    """Where the record is, and where rows and plots go."""

    record: Path | None
    out: Path | None
    plot: Path | None

    def __post_init__(self) -> None:
        for path, endings in ((self.out, (".parquet", ".csv")), (self.plot, (".svg",))):
            if path is not None and path.suffix not in endings:
                raise ConfigError(f"{path}: its name must end in {' or '.join(endings)}")


def _on_node(session: Session, wanted: SimulationOrder, files: _Files) -> None:
    if files != _Files(None, None, None):
        raise ConfigError("--out, --plot and --record are for simulations here, not --on-node")
    with session.client() as client:
        told = client.simulate(wanted.model_dump(mode="json"))
    session.emit(told, _summary(told))


def _here(session: Session, wanted: SimulationOrder, files: _Files, settings: Path | None) -> None:
    ours, where = _settings(session, settings)
    outcome = _run(session, wanted, ours, files.record)
    if files.out is not None:
        tables.write(outcome, files.out)
    if files.plot is not None:
        thresholds = orders.scenario_of(wanted, ours).thresholds
        for cache in outcome.caches:
            path = files.plot
            if cache is not outcome.caches[0]:
                path = path.with_stem(f"{path.stem}-{cache.name}")
            path.write_text(plot.of_cache(outcome, cache.name, thresholds), encoding="utf-8")
            session.stderr.print(f"drawn: {escape(str(path))}", highlight=False)
    told = {"settings_from": where, **outcome.as_json()}
    session.emit(told, _summary(told))


def size(  # noqa: PLR0913 - one argument an option
    context: typer.Context,
    studies_per_day: Annotated[float, typer.Option(help="Expected.")] = 0.0,
    bytes_per_study: Annotated[str, typer.Option(help="Expected mean (300MB).")] = "0",
    days: Annotated[float, typer.Option(help="Days to keep in the image cache.")] = 28.0,
    web_days: Annotated[float, typer.Option(help="In the web cache. Default: as --days.")] = 0.0,
    web_ratio: Annotated[float, typer.Option(help="Web form a byte received.")] = 0.0,
    library_ratio: Annotated[float, typer.Option(help="Library a byte received.")] = 1.0,
    measured: Annotated[
        bool, typer.Option("--measured", help="Take the load from the recorded statistics.")
    ] = False,
    record: Annotated[
        Path | None, typer.Option(help="Folder of statistics. Default: of the data folder.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Calculate capacities for an expected load: days to keep, with margins 1.3 x 1.1."""
    session = session_of(context, as_json)
    asked = {
        "studies_per_day": studies_per_day,
        "bytes_per_study": bytes_per_study,
        "days": days,
        "web_days": web_days,
        "web_ratio": web_ratio,
        "library_ratio": library_ratio,
        "measured": measured,
    }
    wanted = parse(SizeOrder, asked, "size")
    ours = _settings(session, None)[0]
    place = record or (_stats(session, ours) if measured else None)
    told = orders.size(wanted, ours, place)
    session.emit(told, _sizes(told))


def _run(session: Session, wanted: SimulationOrder, ours: Settings, record: Path | None) -> Any:
    place = record or (None if wanted.load == "synthetic" else _stats(session, ours))
    if record is not None and wanted.load == "auto":
        wanted = wanted.model_copy(update={"load": "recorded"})
    with bars.Progress(console=session.stderr, transient=True) as shown:
        task = shown.add_task(f"simulating {wanted.days:g} days", total=1.0)
        return orders.run(wanted, ours, place, lambda part: shown.update(task, completed=part))


def _stats(session: Session, ours: Settings) -> recorded.Place:
    return recorded.place_of(ours, session.bootstrap.data_dir / "stats")


def _settings(session: Session, file: Path | None) -> tuple[Settings, str]:
    """Return the settings of a file, else those in force if a node runs, else defaults."""
    if file is not None:
        return read_settings(file)[1], str(file)
    try:
        with session.client() as client:
            version, values = client.settings()
        return parse(Settings, values, "settings"), f"version {version} of the cluster's"
    except NodeNotRunning:
        return Settings(), "defaults: no node runs"


def _pair(words: str) -> tuple[str, float | str]:
    key, assigned, value = words.partition("=")
    if not assigned or not key or not value:
        raise ConfigError(f"--set {words}: write KEY=VALUE, such as amber=48")
    try:
        return key.strip(), float(value)
    except ValueError:
        return key.strip(), value.strip()


def _outage(words: str) -> dict[str, float]:
    first, plus, days = words.partition("+")
    try:
        return {"first_day": float(first), "days": float(days if plus else "nothing")}
    except ValueError:
        raise ConfigError(f"--outage {words}: write DAY+DAYS, such as 30+7") from None


def _watermark(words: str) -> dict[str, float] | None:
    if not words:
        return None
    high, slash, low = words.partition("/")
    try:
        return {"high": float(high), "low": float(low if slash else "nothing")}
    except ValueError:
        raise ConfigError(f"--watermark {words}: write HIGH/LOW, such as 90/80") from None


def _summary(told: dict[str, Any]) -> Table:
    load, counts = told["load"], told["counts"]
    table = columns(f"simulation: {told['policy']}", "what", "value", "", numbers=_NUMBERS)
    table.add_row(
        "load",
        f"{load['days']:g} days",
        escape(f"{load['origin']}, reads {load['reads_from']}, from {moment(told['start_s'])}"),
    )
    each = f"{load['studies_per_day']:,.0f} a day, {amount(load['bytes_per_study'])} each"
    table.add_row("came", amount(counts["bytes"]), f"{counts['studies']:,} studies; {each}")
    refused = f"{counts['refused']:,} times; sent again"
    table.add_row("refused", amount(counts["refused_bytes"]), refused if counts["refused"] else "")
    high = f"at most {amount(counts['unarchived_high_bytes'])} were not archived"
    table.add_row("archived", amount(counts["archived_bytes"]), high)
    table.add_row("restored", amount(counts["restored_bytes"]), f"{counts['restored']:,} studies")
    older = f"of studies older than 7 days {_percent(told['older_hit_ratio'])}"
    table.add_row("hit ratio", _percent(told["hit_ratio"]), older)
    if told.get("web_hit_ratio") is not None:
        table.add_row("web hit ratio", _percent(told["web_hit_ratio"]), "others are prepared again")
    for cache in told["caches"]:
        _add_cache(table, cache)
    return table


def _add_cache(table: Table, cache: dict[str, Any]) -> None:
    hours = cache["hours_at"]
    table.add_section()
    fullest = f"at most {cache['fullest_percent']:.2f} % full"
    table.add_row(f"[bold]{escape(cache['name'])}[/]", amount(cache["capacity_bytes"]), fullest)
    table.add_row("  amber", f"{hours['amber']:,.0f} h", "")
    table.add_row("  red", f"{hours['red']:,.0f} h", f"green {hours['green']:,.0f} h")
    rules = ", ".join(f"{name}: {count:,}" for name, count in cache["evicted_by_rule"].items())
    table.add_row("  evicted", amount(cache["evicted_bytes"]), escape(rules))
    score = cache["forecast"]
    if score["scored"]:
        table.add_row(
            "  forecast error",
            f"{score['error_h']:.1f} h",
            f"median of {score['scored']:,}; the plain rate's {_hours(score['plain_error_h'])}; "
            f"p10 to p90 holds {_percent(score['coverage'])}",
        )


def _sizes(told: dict[str, Any]) -> Table:
    table = columns(f"{amount(told['bytes_per_day'])} a day", "what", "size", "=", numbers=_NUMBERS)
    for one in told["sizes"]:
        factors = " x ".join(_factor(factor) for factor in one["factors"])
        table.add_row(one["what"], amount(one["size_bytes"]), factors)
    amber = amount(told["amber_bytes"])
    table.add_row("amber hours", amber, "what comes in them: the margin of space holds it")
    for note in told["notes"]:
        table.add_row("[yellow]note[/]", "", escape(note))
    return table


def _factor(factor: dict[str, Any]) -> str:
    value = factor["value"]
    shown = amount(value) if factor["unit"] == "bytes" else f"{value:,.6g}"
    return f"{shown} ({factor['name']})"


def _percent(part: float | None) -> str:
    return "-" if part is None else f"{100 * part:.2f} %"


def _hours(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} h"
