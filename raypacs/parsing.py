"""Models built from what people wrote: errors name the place, the key and the nearest known key."""

from __future__ import annotations

import difflib
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
