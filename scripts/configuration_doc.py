"""Write docs/configuration.md from raypacs/config.py: python scripts/configuration_doc.py"""

from __future__ import annotations

import typing
from pathlib import Path

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from raypacs.config import Bootstrap, CompressionRule, Settings, TierSettings
from raypacs.object_store import S3Access

DOCUMENT = Path(__file__).parent.parent / "docs" / "configuration.md"

INTRODUCTION = """\
# Configuration

Made from `raypacs/config.py` by `scripts/configuration_doc.py`; a test keeps it current.

Two places, on purpose:

- **`raypacs.toml`**, one per node, is the bootstrap: only what a node needs before it can reach the
  index. Without a file the defaults hold. `raypacs config check` checks it; `--config FILE` names
  another one, `--data-dir` overrides `data_dir`.
- **Settings** live in the index, versioned and audited, the same for every node:
  `raypacs config export settings.toml`, edit, `raypacs config apply settings.toml`. The `version`
  in the file is the one exported: if somebody else changed the settings since, nothing is applied.
  `--dry-run` shows what would change.

An unknown key is an error that names the nearest known one. Sizes are in bytes (`_bytes`), times in
seconds (`_s`).
"""

EXAMPLES = """
## Examples

`raypacs.toml` of a node that others may reach, with its data on a large disk:
```toml
data_dir = "/srv/raypacs"
host = "0.0.0.0"
access = "open"        # no access control: only behind a firewall
ae_title = "RAYPACS"
```

Settings: no wavelet for ultrasound clips of one sender, and a second image tier. `config apply`
takes whole settings, so start from `config export`:
```toml
[[compression]]
name = "clips stay as they are"
action = "copy"
modalities = ["US"]
sources = ["ECHO_LAB"]

[[tiers]]
name = "image2"
role = "image"
url = "file:///mnt/disk2/raypacs"
order = 2
```
"""

SECTIONS: tuple[tuple[str, type[BaseModel]], ...] = (
    ("Bootstrap: `raypacs.toml`", Bootstrap),
    ("Settings", Settings),
    ("Settings: one tier, `[[tiers]]`", TierSettings),
    ("Settings: an S3 store, `[tiers.s3]` under its `[[tiers]]`", S3Access),
    ("Settings: one compression rule, `[[compression]]`", CompressionRule),
)


def document() -> str:
    """Return the whole document."""
    parts = [INTRODUCTION]
    for title, model in (*SECTIONS, *_nested(Settings, {model for _, model in SECTIONS})):
        parts.append(
            f"\n## {title}\n\n| setting | type | meaning, default, reason |\n|---|---|---|"
        )
        for name, field in model.model_fields.items():
            meaning = " ".join((field.description or "").split()).replace("|", "\\|")
            parts.append(f"\n| `{name}` | {_kind(field)} | {meaning} |")
        parts.append("\n")
    return "".join([*parts, EXAMPLES])


def _nested(
    model: type[BaseModel], seen: set[type[BaseModel]], path: str = ""
) -> list[tuple[str, type[BaseModel]]]:
    """Return a section for every table below a model that has none yet."""
    found: list[tuple[str, type[BaseModel]]] = []
    for name, field in model.model_fields.items():
        for inner in _models(field.annotation):
            where = f"{path}.{name}" if path else name
            if inner not in seen:
                seen.add(inner)
                is_list = typing.get_origin(field.annotation) is tuple
                table = f"[[{where}]]" if is_list else f"[{where}]"
                found.append((f"Settings: `{table}`", inner))
                found += _nested(inner, seen, where)
    return found


def _models(annotation: object) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [one for inner in typing.get_args(annotation) for one in _models(inner)]


def _kind(field: FieldInfo) -> str:
    annotation = field.annotation
    if typing.get_origin(annotation) is tuple:
        return f"list of {_name(typing.get_args(annotation)[0])}"
    given = [one for one in typing.get_args(annotation) if one is not type(None)]
    if type(None) in typing.get_args(annotation) and len(given) == 1:
        return f"{_name(given[0])}{_range(field)}, or left out"
    return _name(annotation) + _range(field)


def _name(annotation: object) -> str:
    if typing.get_origin(annotation) is typing.Literal:
        return ", ".join(f"`{value}`" for value in typing.get_args(annotation))
    given = typing.get_args(annotation)
    if typing.get_origin(annotation) is tuple:
        return f"list of {_name(given[0])}"
    if typing.get_origin(annotation) is dict:
        return "table"
    if len(given) > 1:
        return " or ".join(_name(one) for one in given if one is not type(None))
    names = {str: "text", int: "whole number", float: "number", bool: "true, false", Path: "path"}
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "tables, see below"
    return names.get(annotation, str(annotation)) if isinstance(annotation, type) else "?"


def _range(field: FieldInfo) -> str:
    bounds = {
        sign: getattr(each, key)
        for each in field.metadata
        for key, sign in (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<"))
        if getattr(each, key, None) is not None
    }
    return "".join(f", {sign} {bound:g}" for sign, bound in bounds.items() if bound < 1e6)


if __name__ == "__main__":
    DOCUMENT.write_text(document(), encoding="utf-8")
