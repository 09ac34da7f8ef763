"""Commands `config check`, `config export`, `config apply`."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Annotated, Any

import tomli_w
import typer

from raypacs.cli.session import Json, columns, session_of
from raypacs.config import Settings, parse
from raypacs.errors import ConfigError

_VERSION_KEY = "version"

app = typer.Typer(
    help="Check the bootstrap file; export and apply the cluster's settings.",
    no_args_is_help=True,
)


@app.command()
def check(
    context: typer.Context,
    settings: Annotated[
        Path | None, typer.Argument(help="A settings file to check as well.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check raypacs.toml (and a settings file) without touching anything."""
    session = session_of(context, as_json)
    bootstrap = session.bootstrap
    told: dict[str, Any] = {
        "file": str(session.config_path or ""),
        "bootstrap": bootstrap.model_dump(mode="json"),
    }
    if settings is not None:
        version, checked = read_settings(settings)
        told |= {"settings": checked.model_dump(mode="json"), "settings_version": version}
    table = columns(f"{told['file'] or 'no file, defaults hold'}: valid", "setting", "value")
    for name, value in told["bootstrap"].items():
        table.add_row(name, _shown(value))
    session.emit(told, table)


@app.command()
def export(
    context: typer.Context,
    file: Annotated[
        Path | None, typer.Argument(help="File to write. Default: standard output.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write the cluster's settings as TOML, with their version, to edit and apply."""
    session = session_of(context, as_json)
    with session.client() as client:
        version, settings = client.settings()
    text = tomli_w.dumps({_VERSION_KEY: version, **_without_nothing(settings)})
    if file is not None:
        file.write_text(text, encoding="utf-8")
        session.emit({"version": version, "file": str(file)}, f"version {version} in {file}")
    elif session.json:
        session.emit({"version": version, "settings": settings})
    else:
        typer.echo(text, nl=False)


def _without_nothing(values: Any) -> Any:
    """Leave out what is not set: TOML has no word for it, and it is the default."""
    if isinstance(values, dict):
        return {key: _without_nothing(one) for key, one in values.items() if one is not None}
    return [_without_nothing(one) for one in values] if isinstance(values, list) else values


@app.command()
def apply(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="Settings as TOML or JSON, as exported.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would change.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Apply settings to the whole cluster: a new version, audited. Refused if others changed it.

    The `version` in the file is the one that was exported; without it, the settings are applied
    whatever the current version is.
    """
    session = session_of(context, as_json)
    version, wanted = read_settings(file)
    with session.client() as client:
        current_version, current = client.settings()
        changes = differences(current, wanted.model_dump(mode="json"))
        told = {"version": current_version, "changes": changes, "applied": False}
        if changes and not dry_run:
            told["version"] = client.apply_settings(wanted.model_dump(mode="json"), version)
            told["applied"] = True
    verb = "applied" if told["applied"] else "would change" if changes else "nothing to change"
    table = columns(f"version {told['version']}: {verb}", "setting", "before", "after")
    for name, (before, after) in changes.items():
        table.add_row(name, _shown(before), _shown(after))
    session.emit(told, table)


def read_settings(path: Path) -> tuple[int | None, Settings]:
    """Read a settings file and the version it was exported from, if it says so.

    Raises:
        ConfigError: unreadable, neither TOML nor JSON, an unknown key or a bad value.
    """
    try:
        text = path.read_text(encoding="utf-8")
        # No TOML document begins with a brace.
        values = _from_json(text) if text.lstrip().startswith("{") else tomllib.loads(text)
    except OSError as exc:
        raise ConfigError(f"{path}: {exc.strerror}") from exc
    except json.JSONDecodeError as exc:
        raise ConfigError(f"{path}: not valid JSON: {exc}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path}: not valid TOML: {exc}") from exc
    version = values.pop(_VERSION_KEY, None)
    if version is not None and (not isinstance(version, int) or isinstance(version, bool)):
        raise ConfigError(f"{path}: version: not a whole number")
    return version, parse(Settings, values, str(path))


def _from_json(text: str) -> dict[str, Any]:
    """Return settings and version side by side, as in TOML; `export --json` has them apart."""
    values: dict[str, Any] = json.loads(text)
    settings = values.pop("settings", None)
    return {**values, **settings} if isinstance(settings, dict) else values


def differences(before: dict[str, Any], after: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return name to (before, after) of the settings that differ."""
    names = [*before, *(name for name in after if name not in before)]
    return {
        name: (before.get(name), after.get(name))
        for name in names
        if before.get(name) != after.get(name)
    }


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
