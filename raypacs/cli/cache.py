"""Commands of the caches: their levels, forecasts, eviction, simulation and sizing."""

from __future__ import annotations

import typer

from raypacs.cli import evict, levels, simulate

app = typer.Typer(
    help="Levels, forecasts, eviction, simulation and sizing of caches.", no_args_is_help=True
)

app.command()(levels.status)
app.command()(levels.forecast)
app.command()(evict.evict)
app.command()(simulate.simulate)
app.command()(simulate.size)
