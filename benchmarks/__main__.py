"""`python -m benchmarks list | run NAME... | peers list | peers install [PEER...]`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from benchmarks import peers, runner

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)
peers_app = typer.Typer(no_args_is_help=True, help="What raypacs is measured beside.")
app.add_typer(peers_app, name="peers")
console = Console(stderr=True)
# Wide enough that no column is cut when the output goes to a file.
output = Console(width=None if Console().is_terminal else 160)


@app.command("list")
def list_benchmarks(
    as_json: Annotated[bool, typer.Option("--json", help="A JSON list.")] = False,
) -> None:
    """List the benchmarks and what each measures."""
    found = runner.discover().values()
    if as_json:
        print(json.dumps([{"name": b.name, "description": b.description} for b in found]))
        return
    for benchmark in found:
        output.print(f"[bold]{benchmark.name:12}[/] {benchmark.description}")


@app.command("run")
def run_benchmarks(
    names: Annotated[list[str], typer.Argument(help="Names from `list`, or `all`.")],
    quick: Annotated[bool, typer.Option(help="Smaller and fewer runs, for a look.")] = False,
    count: Annotated[
        int | None, typer.Option(min=1, help="Objects or frames of the long form.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the figures to this file.")
    ] = None,
) -> None:
    """Run benchmarks; exits 5 if a target does not hold, 4 if a peer is missing, 3 on errors."""
    found = runner.discover()
    unknown = [name for name in names if name not in found and name != "all"]
    if unknown:
        console.print(f"no benchmark {', '.join(unknown)}; known: {', '.join(found)}")
        raise typer.Exit(runner.EXIT_USAGE)
    chosen = list(found.values()) if "all" in names else [found[n] for n in dict.fromkeys(names)]
    report = runner.run(chosen, quick=quick, count=count, console=console)
    if json_file is not None:
        runner.write_json(report.figures, json_file)
    output.print(runner.table(report.figures))
    for line in report.missing_peers + report.errors:
        console.print(f"[red]{escape(line)}[/]", soft_wrap=True)
    raise typer.Exit(report.exit_code)


@peers_app.command("list")
def list_peers() -> None:
    """List the peers, and which of them are installed."""
    for peer in peers.PEERS.values():
        version = peer.version()
        state = f"[green]{version}[/]" if version else "[yellow]not installed[/]"
        output.print(f"[bold]{peer.name:12}[/] {state}: {peer.description}")


@peers_app.command("install")
def install_peers(
    names: Annotated[list[str] | None, typer.Argument(help="Peers; default all.")] = None,
) -> None:
    """Install peers (Debian packages; needs root). Does nothing for those that are there."""
    wanted = names or list(peers.PEERS)
    unknown = [name for name in wanted if name not in peers.PEERS]
    if unknown:
        console.print(f"no peer {', '.join(unknown)}; known: {', '.join(peers.PEERS)}")
        raise typer.Exit(runner.EXIT_USAGE)
    for name in wanted:
        try:
            version = peers.install(name)
        except peers.InstallFailed as exc:
            console.print(f"[red]{name}: {escape(str(exc))}[/]", soft_wrap=True)
            raise typer.Exit(runner.EXIT_FAILED) from exc
        output.print(f"{name}: {version}")


if __name__ == "__main__":
    app()
