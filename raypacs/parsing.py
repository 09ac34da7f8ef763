"""Models built from what people wrote: errors name the place, the key and the nearest known key."""

from __future__ import annotations

import difflib
import re
import types
import typing
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from raypacs.errors import ConfigError

Model = TypeVar("Model", bound=BaseModel)


def parse(
    model: type[Model],
    values: dict[str, Any],
    where: str,
    context: dict[str, Any] | None = None,
) -> Model:
    """Build ``model`` from ``values``; errors name ``where``, the key and the nearest known key.

    ``context`` is given to the model's validators.

    Raises:
        ConfigError: as said.
    """
    try:
        return model.model_validate(values, context=context)
    except ValidationError as exc:
        raise ConfigError(
            "; ".join(_explain(model, error, where) for error in exc.errors()), where=where
        ) from exc


def _explain(model: type[BaseModel], error: Any, where: str) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] != "extra_forbidden":
        return f"{where}: {key + ': ' if key else ''}{error['msg'].removeprefix('Value error, ')}"
    known = list(_model_at(model, error["loc"][:-1]).model_fields)
    near = difflib.get_close_matches(str(error["loc"][-1]), known, n=1, cutoff=0.5)
    suggestion = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(known))}"
    return f"{where}: unknown setting {key!r}; {suggestion}"


def _model_at(model: type[BaseModel], loc: tuple[Any, ...]) -> type[BaseModel]:
    """Return the model that owns the key at ``loc``, walking through tuples of models."""
    for part in loc:
        if isinstance(part, int):
            continue
        model = _inner_model(model.model_fields[part].annotation) or model
    return model


def _inner_model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return annotation if issubclass(annotation, BaseModel) else None
    for argument in typing.get_args(annotation):
        found = _inner_model(argument)
        if found is not None:
            return found
    return None


_UNITS = {
    "": 1,
    "b": 1,
    **{f"{letter}b": 1000**power for power, letter in enumerate("kmgtp", 1)},
    **{f"{letter}ib": 1024**power for power, letter in enumerate("kmgtp", 1)},
}
_SIZE = re.compile(r"([0-9]+(?:[.][0-9]+)?|[.][0-9]+) *([A-Za-z]*)")


def size_bytes(text: str | float) -> int:
    """Return a size as people write it in bytes: `20TB`, `1.5 TiB`, `300MB`, `1000`.

    kB, MB, GB, TB, PB count in thousands, KiB to PiB in 1024; upper and lower case are the same.

    Raises:
        ConfigError: it is none; says what one looks like.
    """
    if not isinstance(text, str):
        if not (text >= 0 and text < float("inf")):
            raise ConfigError(f"{text:g} is no size: it is 0 bytes or more")
        return int(text)
    found = _SIZE.fullmatch(text.strip())
    unit = found[2].lower() if found else ""
    if found is None or unit not in _UNITS:
        raise ConfigError(
            f"{text!r} is no size: write a number and a unit, such as 20TB, 1.5TiB or 300MB"
        )
    return round(float(found[1]) * _UNITS[unit])
