"""Validation that finds every problem at once and says each in plain words.

Pydantic's own sentences are for programmers and quote the input, which may be a secret; so none of
them leaves this module. Above it are the model and the loader, which say where values came from.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any, Final, TypeVar

import orjson
from pydantic import ValidationError

from gateway.config.keys import KeyPath, dotted, kind_of, printable, quoted, shown
from gateway.config.schema import schema_of
from gateway.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pydantic_core import ErrorDetails

    from gateway.config.places import Places
    from gateway.config.schema import Schema

    References = Callable[[dict[str, Any]], Iterable[tuple[KeyPath, str]]]

VARIABLE_PREFIX: Final = "GATEWAY_"
LEVEL_SEPARATOR: Final = "__"
MAX_PROBLEMS: Final = 100
"""More are counted, not told: a file of garbage must not cost minutes and megabytes."""
MAX_SENTENCE_CHARS: Final = 400
_COMPARED_CHARS: Final = 64
_LIKENESS: Final = 0.7

_UNIONS: Final = (("agents",), ("channels",))
_RULES: Final = frozenset({"value_error", "broken_rule"})
_RANGES: Final = frozenset(
    {"greater_than", "greater_than_equal", "less_than", "less_than_equal", "finite_number"}
)

S = TypeVar("S", bound=Settings)


def variable_name(path: KeyPath) -> str:
    """Return the environment variable that sets a key."""
    return VARIABLE_PREFIX + LEVEL_SEPARATOR.join(str(part).upper() for part in path)


def check(
    model: type[S], tree: dict[str, Any], places: Places, references: References
) -> tuple[S | None, tuple[str, ...]]:
    """Return the settings that the values make, or None and every problem, in reading order.

    Args:
        model: The class that says what is accepted.
        tree: The values. Those that `places.texts` names are read as JSON where a string will
            not do, and changed in place.
        places: Where the values came from.
        references: Finds names that nothing bears, in values that may be wrong otherwise too.
    """
    while True:
        try:
            return model.model_validate(tree), ()
        except ValidationError as exc:
            errors = exc.errors(include_url=False)
        if not _read_texts(errors, tree, places):
            break

    explained = _Explainer(schema_of(model), tree, places)
    found = [problem for error in errors[:MAX_PROBLEMS] for problem in explained.problems(error)]
    broken = {path for path, _ in found}
    found += [(path, text) for path, text in references(tree) if path not in broken][:MAX_PROBLEMS]
    unique = sorted(dict.fromkeys(found), key=lambda problem: places.of(problem[0]))
    lines = [places.problem(path, text) for path, text in unique]
    if len(errors) > MAX_PROBLEMS:
        lines.append(f"... and {len(errors) - MAX_PROBLEMS} problems more")

    return None, tuple(lines)


def _read_texts(errors: list[ErrorDetails], tree: dict[str, Any], places: Places) -> bool:
    """Replace texts that stand where another type is wanted; tell whether there was one."""
    changed = False
    for error in errors:
        path = _path(error)
        text = error["input"]
        if path in places.texts and isinstance(text, str) and error["type"].endswith("_type"):
            value = _json(text)
            if not isinstance(value, str):
                _replace(tree, path, value)
                changed = True
    return changed


def _json(text: str) -> object:
    try:
        value: object = orjson.loads(text)
    except orjson.JSONDecodeError:
        return text

    return text if value is None else value


def _replace(tree: dict[str, Any], path: KeyPath, value: object) -> None:
    for part in path[:-1]:
        tree = tree[str(part)]
    tree[str(path[-1])] = value


def _path(error: ErrorDetails) -> KeyPath:
    """Return the key of an error: pydantic adds the kind of a table, and a mark for names."""
    loc = error["loc"]
    if _is_name(error):
        loc = loc[:-1]
    # Agents and channels are the unions; the kind stands behind the name.
    return (*loc[:2], *loc[3:]) if loc[:1] in _UNIONS and len(loc) > 2 else loc  # noqa: PLR2004


def _is_name(error: ErrorDetails) -> bool:
    return error["loc"][-1:] == ("[key]",) and error["type"] != "extra_forbidden"


class _Explainer:
    """Says what is wrong with values, and what is accepted."""

    def __init__(self, schema: Schema, tree: dict[str, Any], places: Places) -> None:
        self._schema = schema
        self._tree = tree
        self._places = places

    def problems(self, error: ErrorDetails) -> list[tuple[KeyPath, str]]:
        """Return what one error of pydantic means: the key and the sentence."""
        path = _path(error)
        kind = error["type"]
        context = error.get("ctx", {})
        if kind in _RULES:
            # A rule's sentence may quote what was given.
            text = printable(str(context.get("error") or error["msg"]))
            return [(path, text[:MAX_SENTENCE_CHARS])]
        if kind == "extra_forbidden":
            return self._unknown(path)
        if kind.startswith("union_tag"):
            return [self._kind(path, context)]

        if _is_name(error):
            table = self._schema.at(path[:-1], self._tree) or {}
            accepted = self._schema.accepted_name(table)
            return [(path, f"is not a name for this, accepted is {accepted}")]

        accepted = self._schema.accepted(self._schema.at(path, self._tree) or {})
        secret = self._schema.is_secret(path, self._tree)
        return [(path, f"{_wrong(kind, error['input'], secret=secret)}, accepted is {accepted}")]

    def _kind(self, path: KeyPath, context: dict[str, Any]) -> tuple[KeyPath, str]:
        path = (*path, context["discriminator"].strip("'"))
        tag = context.get("tag")
        wrong = f"{quoted(tag)} is unknown" if tag else "is missing"
        choices = self._schema.accepted(self._schema.at(path[:-1], self._tree) or {})
        return path, f"{wrong}, accepted is {choices.partition(' = ')[2]}"

    def _unknown(self, path: KeyPath) -> list[tuple[KeyPath, str]]:
        texts = self._places.texts_below(path)
        if not texts:
            return [(path, f"unknown key, {self._nearest_key(path)}")]

        return [(text, self._unknown_text(text)) for text in texts]

    def _unknown_text(self, path: KeyPath) -> str:
        variable = variable_name(path)
        if self._places.texts[path].rpartition(" ")[2] != variable:
            return f"unknown key, {self._nearest_key(path)}"

        # Without the prefix, which would make all of them alike.
        known = {variable_name(leaf): leaf for leaf in self._schema.leaves(self._tree)}
        names = [name.removeprefix(VARIABLE_PREFIX) for name in known]
        near = _nearest(variable.removeprefix(VARIABLE_PREFIX), names)
        if near:
            return f"unknown variable, did you mean {VARIABLE_PREFIX}{near}?"

        return f"unknown variable, {self._nearest_key(path)}"

    def _nearest_key(self, path: KeyPath) -> str:
        name = str(path[-1])
        holder = self._schema.at(path[:-1], self._tree) or {}
        siblings = list(holder.get("properties", {}))
        near = _nearest(name, siblings)
        if near:
            return f"did you mean {near}?"

        leaves = list(self._schema.leaves(self._tree))
        near = _nearest(name, [str(leaf[-1]) for leaf in leaves])
        tables = [dotted(leaf[:-1]) for leaf in leaves if leaf[-1] == near]
        if len(tables) == 1:
            where = f"of the table [{tables[0]}]" if tables[0] else "above the first table"
            return f"did you mean the key {near} {where}?"

        return f"accepted here: {', '.join(siblings)}"


def _nearest(name: str, names: list[str]) -> str:
    close = difflib.get_close_matches(name[:_COMPARED_CHARS], names, n=1, cutoff=_LIKENESS)
    return close[0] if close else ""


def _wrong(kind: str, value: object, *, secret: bool) -> str:
    if kind == "missing":
        return "is missing"

    value_shown = "" if secret else shown(value)
    if kind in _RANGES:
        wrong = "is out of range"
    elif kind.endswith("_type") or kind == "is_instance_of":
        wrong = f"is {kind_of(value)}"
    elif kind in {"enum", "literal_error"}:
        wrong = "is unknown"
    else:
        wrong = "cannot be used"
    return f"{value_shown} {wrong}".strip()
