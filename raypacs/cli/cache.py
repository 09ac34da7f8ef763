"""Commands of the caches: their levels, forecasts, eviction, simulation and sizing."""

from __future__ import annotations

import typer

app = typer.Typer(
    help="Levels, forecasts, eviction, simulation and sizing of caches.", no_args_is_help=True
)
