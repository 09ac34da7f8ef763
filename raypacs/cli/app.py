"""The commands, put together; and the one entry point with its error handling."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from raypacs.cli import (
    adopt,
    archive,
    cache,
    demo,
    erase,
    get,
    index,
    ingest,
    master,
    node,
    nodes,
    pin,
    queue,
    restore,
    rules,
    settings,
    studies,
    study,
    submit,
    tier,
    why,
)
from raypacs.cli.outcome import guarded
from raypacs.cli.session import Session

_GLOBAL_FLAGS = frozenset({"--debug"})
_GLOBAL_OPTIONS = frozenset({"--config", "--data-dir", "--url"})

app = typer.Typer(
    name="raypacs",
    help="A cluster that turns DICOM studies into a lossless wavelet web cache.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


@app.callback()
def start(
    context: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option(help="Bootstrap file. Default: raypacs.toml here, if there is one."),
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Data folder; overrides that of the bootstrap file.")
    ] = None,
    url: Annotated[
        str, typer.Option(help="Talk to the node at this URL instead of the one on this host.")
    ] = "",
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error happened.")] = False,
) -> None:
    """Options for all commands; they may also stand behind the command."""
    context.obj = Session(config=config, data_dir=data_dir, url=url, debug=debug)


app.command()(demo.demo)
app.command()(nodes.up)
app.command()(nodes.down)
app.command()(nodes.status)
app.command()(ingest.ingest)
app.command()(adopt.adopt)
app.command(name="studies")(studies.list_studies)
app.command()(studies.show)
app.command()(get.get)
app.command()(studies.delete)
app.command()(studies.wait)
app.command()(why.why)
app.command()(pin.pin)
app.command()(pin.unpin)
app.command()(restore.restore)
app.command()(restore.prefetch)
app.add_typer(archive.app, name="archive")
app.add_typer(cache.app, name="cache")
app.add_typer(queue.app, name="queue")
app.add_typer(node.app, name="node")
app.add_typer(master.app, name="master")
app.add_typer(index.app, name="index")
app.add_typer(tier.app, name="tier")
app.add_typer(settings.app, name="config")
app.add_typer(rules.app, name="rules")
app.add_typer(study.app, name="study")
app.add_typer(study.sources, name="source")
app.add_typer(erase.app, name="erase")
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(
    submit.submit
)
app.command()(nodes.version)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    given = hoisted(sys.argv[1:] if arguments is None else arguments)

    def command() -> int:
        app(args=given, prog_name="raypacs")
        return 0

    sys.exit(guarded(command, debug="--debug" in given, as_json="--json" in given))


def hoisted(arguments: list[str]) -> list[str]:
    """Move the options for all commands to the front, so that they may stand anywhere.

    Nothing behind ``--`` is touched.
    """
    end = arguments.index("--") if "--" in arguments else len(arguments)
    front: list[str] = []
    rest: list[str] = []
    words = iter(arguments[:end])
    for word in words:
        name, assigned, _ = word.partition("=")
        if name in _GLOBAL_FLAGS or (name in _GLOBAL_OPTIONS and assigned):
            front.append(word)
        elif name in _GLOBAL_OPTIONS:
            front += [word, *([value] if (value := next(words, None)) is not None else [])]
        else:
            rest.append(word)
    return front + rest + arguments[end:]
