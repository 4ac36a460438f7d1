"""What of a refused configuration is right all the same: its programs can be looked for."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, TypeVar, cast, get_origin

from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticUndefined

from gateway.settings import Settings

S = TypeVar("S", bound=Settings)


def sound_parts(model: type[S], tree: object) -> S:
    """Return settings of the values that are right; where one is wrong, its default stands.

    Lists, and tables whose names the user chose, are right or left out as wholes. Rules between
    keys may be broken: this is to look at, not to use.
    """
    given = tree if isinstance(tree, dict) else {}
    kept: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        if name not in given:
            continue

        adapter = _adapter(model, name)
        value = _valid(adapter, given[name])
        if value is PydanticUndefined:
            value = _parts(adapter, field.annotation, given[name])
        if value is not PydanticUndefined:
            kept[name] = value
    # What pydantic tells mypy of it is the base class.
    return cast("S", model.model_construct(**kept))


@cache
def _adapter(model: type[Settings], name: str) -> TypeAdapter[Any]:
    """Return what validates one field as its class does."""
    field = model.model_fields[name]
    # Pydantic keeps a field's bounds apart from its type.
    return TypeAdapter[Any](Annotated[field.annotation, field])


def _parts(adapter: TypeAdapter[Any], annotation: object, value: object) -> Any:  # noqa: ANN401 - of any type
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return sound_parts(annotation, value)
    if get_origin(annotation) is dict and isinstance(value, dict):
        tables = [_valid(adapter, {name: one}) for name, one in value.items()]
        return {
            name: one for table in tables if isinstance(table, dict) for name, one in table.items()
        }

    return PydanticUndefined


def _valid(adapter: TypeAdapter[Any], value: object) -> Any:  # noqa: ANN401 - of any type
    try:
        return adapter.validate_python(value)
    except ValidationError:
        return PydanticUndefined
