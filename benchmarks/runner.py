"""Find the benchmarks, run them one after another, show and write what they measured."""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

import benchmarks
from benchmarks.figure import Figure, MissingPeer

# Exit codes: the most serious of what happened, in this order.
EXIT_OK = 0
EXIT_USAGE = 2
EXIT_FAILED = 3  # a benchmark ended with an error
EXIT_PEER_MISSING = 4
EXIT_TARGET_MISSED = 5

Run = Callable[[bool, int | None], list[Figure]]


@dataclass(frozen=True)
class Benchmark:
    """One benchmark module: ``NAME``, ``DESCRIPTION`` and ``run(quick, count)``."""

    name: str
    description: str
    run: Run


@dataclass
class Report:
    """What a run of several benchmarks produced."""

    figures: list[Figure] = field(default_factory=list)
    missing_peers: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """EXIT_OK, or the code of the most serious thing that happened."""
        if self.errors:
            return EXIT_FAILED
        if self.missing_peers:
            return EXIT_PEER_MISSING
        if any(figure.holds is False for figure in self.figures):
            return EXIT_TARGET_MISSED
        return EXIT_OK


def discover() -> dict[str, Benchmark]:
    """Return every module of this package that has NAME, DESCRIPTION and run, by name.

    Raises:
        ImportError: a module of the package cannot be imported.
    """
    found: dict[str, Benchmark] = {}
    for info in pkgutil.iter_modules(benchmarks.__path__):
        if info.name.startswith("_"):
            continue
        module = importlib.import_module(f"benchmarks.{info.name}")
        if not all(hasattr(module, part) for part in ("NAME", "DESCRIPTION", "run")):
            continue  # figure, peers, runner: machinery
        found[module.NAME] = Benchmark(module.NAME, module.DESCRIPTION, module.run)
    return dict(sorted(found.items()))


def run(chosen: Iterable[Benchmark], *, quick: bool, count: int | None, console: Console) -> Report:
    """Run ``chosen`` one after another (never at once: they would measure each other)."""
    report = Report()
    for benchmark in chosen:
        started = time.perf_counter()
        console.print(f"[bold]{benchmark.name}[/]: {benchmark.description}", soft_wrap=True)
        try:
            figures = benchmark.run(quick, count)
        except MissingPeer as exc:
            report.missing_peers.append(f"{benchmark.name}: {exc}")
            console.print(f"  [red]peer missing:[/] {escape(str(exc))}", soft_wrap=True)
            continue
        except (OSError, RuntimeError, ValueError, LookupError, AssertionError) as exc:
            # One broken benchmark must not hide the figures of the others.
            traceback.print_exc(file=sys.stderr)
            report.errors.append(f"{benchmark.name}: {type(exc).__name__}: {exc}")
            told = escape(f"{type(exc).__name__}: {exc}")
            console.print(f"  [red]failed:[/] {told}", soft_wrap=True)
            continue
        report.figures.extend(_named(benchmark, figure) for figure in figures)
        console.print(f"  {len(figures)} figures in {time.perf_counter() - started:.1f} s")
    return report


def table(figures: Sequence[Figure]) -> Table:
    """Return the figures as a rich table."""
    shown = Table(title="Figures", title_justify="left", header_style="bold")
    for heading in ("figure", "value", "unit", "beside", "its value", "ratio", "target"):
        right = heading in ("value", "its value", "ratio")
        shown.add_column(heading, justify="right" if right else "left", overflow="fold")
    for heading in ("holds", "n", "spread"):
        shown.add_column(heading, justify="right")
    for figure in figures:
        holds = {True: "[green]yes[/]", False: "[bold red]NO[/]", None: "-"}[figure.holds]
        shown.add_row(
            figure.name,
            _number(figure.value),
            figure.unit,
            figure.beside or "-",
            _number(figure.beside_value),
            _number(figure.ratio),
            figure.target or "-",
            holds,
            str(figure.n),
            f"{figure.spread:.0%}",
        )
    return shown


def write_json(figures: Sequence[Figure], path: Path) -> None:
    """Write the figures as a JSON list, one object a figure, to ``path``.

    Raises:
        OSError: the file cannot be written.
    """
    text = json.dumps([figure.as_json() for figure in figures], indent=2, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def describe_signature(benchmark: Benchmark) -> str:
    """Return an error text when ``benchmark.run`` does not take (quick, count), else ''."""
    parameters = list(inspect.signature(benchmark.run).parameters)
    if parameters[:2] != ["quick", "count"]:
        return f"{benchmark.name}: run() must take (quick, count), has ({', '.join(parameters)})"
    return ""


def _named(benchmark: Benchmark, figure: Figure) -> Figure:
    """Return the figure under a name that begins with its benchmark's."""
    if figure.name.startswith(benchmark.name):
        return figure
    return replace(figure, name=f"{benchmark.name}: {figure.name}")


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    size = abs(value)
    if size >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 10 else f"{value:.3g}"
