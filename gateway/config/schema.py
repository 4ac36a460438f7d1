"""What the configuration accepts at a key, in words, read off the settings classes.

The classes say it once, as types and bounds; their JSON schema is the form that can be walked. It
knows no values and no places.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from gateway.config.keys import KeyPath
    from gateway.settings import Settings

Node: TypeAlias = dict[str, Any]

SECRET_TITLE: Final = "SecretSource"  # noqa: S105 - the name of a class
ACCEPTED_SECRET: Final = (
    "a table { file = ... }, { env = ... } or { credential = ... }, never the secret itself"  # noqa: S105 - says where secrets stand
)
_SAID_OF_NOUN: Final = re.compile(r",| (?:of|from|above|at|with|without|that|such|\{)(?= |$)")


class Schema:
    """The keys of a settings class, down to the last."""

    def __init__(self, root: Node) -> None:
        """Take the JSON schema of the class."""
        self._root = root
        self._definitions: Mapping[str, Node] = root.get("$defs", {})

    def at(self, path: KeyPath, tree: object) -> Node | None:
        """Return what is known of a key, None if there is none.

        Args:
            path: The key.
            tree: The values: where a table has kinds, its own value says which keys it takes.
        """
        node, value = self._resolve(self._root, tree), tree
        for part in path:
            child = _child(node, part)
            if child is None:
                return None

            value = _value_at(value, part)
            node = self._resolve(child, value)
        return node

    def is_secret(self, path: KeyPath, tree: object) -> bool:
        """Tell whether the key, or one it stands in, says where a secret is."""
        nodes = (self.at(path[:length], tree) for length in range(1, len(path) + 1))
        return any(node is not None and node.get("title") == SECRET_TITLE for node in nodes)

    def leaves(self, tree: object) -> Iterator[KeyPath]:
        """Yield every key that holds a value; of tables that the user names, those in `tree`."""
        yield from self._leaves(self._root, tree, ())

    def accepted(self, node: Node) -> str:
        """Return what a key takes, in words."""
        node = self._resolve(node, None)
        if "accepted" in node:
            return str(node["accepted"])
        if node.get("title") == SECRET_TITLE:
            return ACCEPTED_SECRET
        if "items" in node:
            least = f", at least {node['minItems']}" if node.get("minItems") else ""
            return f"a list of {_plural(self.accepted(node['items']))}{least}"

        return _choices(node) or _words(node)

    def accepted_name(self, node: Node) -> str:
        """Return which names a table takes whose keys are the user's."""
        return str(node.get("accepted_names") or self.accepted(node.get("propertyNames", {})))

    def _leaves(self, node: Node, value: object, path: KeyPath) -> Iterator[KeyPath]:
        node = self._resolve(node, value)
        names = list(node.get("properties", {}))
        if not names and isinstance(value, dict) and _child(node, "") is not None:
            names = list(value)
        if not names:
            yield path
        for name in names:
            child = _child(node, name)
            if child is not None:
                yield from self._leaves(child, _value_at(value, name), (*path, name))

    def _resolve(self, node: Node, value: object) -> Node:
        """Follow references, leave out `null` (TOML has none) and pick the table's kind."""
        while True:
            choices = [choice for choice in node.get("anyOf", ()) if choice.get("type") != "null"]
            if "$ref" in node:
                node = self._definitions[node["$ref"].rpartition("/")[2]]
            elif len(choices) == 1:
                node = choices[0]
            elif (kind := _kind(node, value)) is not None:
                node = {"$ref": kind}
            else:
                return node


@cache
def schema_of(model: type[Settings]) -> Schema:
    """Return the schema of a settings class."""
    return Schema(model.model_json_schema())


def _kind(node: Node, value: object) -> str | None:
    rule = node.get("discriminator")
    if rule is None or not isinstance(value, dict):
        return None

    chosen = value.get(rule["propertyName"])
    return rule["mapping"].get(chosen) if isinstance(chosen, str) else None


def _child(node: Node, part: str | int) -> Node | None:
    if isinstance(part, int):
        child = node.get("items")
    elif part in node.get("properties", {}):
        child = node["properties"][part]
    else:
        child = next(iter(node.get("patternProperties", {}).values()), None)
        child = child or node.get("additionalProperties")

    return child if isinstance(child, dict) else None


def _value_at(value: object, part: str | int) -> object:
    if isinstance(value, dict):
        return value.get(part)
    if isinstance(value, list) and isinstance(part, int) and part < len(value):
        return value[part]

    return None


def _choices(node: Node) -> str:
    if "discriminator" in node:
        rule = node["discriminator"]
        return f"a table with {rule['propertyName']} = {_one_of(rule['mapping'])}"
    if "enum" in node or "const" in node:
        return _one_of(node.get("enum") or [node["const"]])

    return ""


def _one_of(choices: Iterable[str]) -> str:
    *others, last = map(str, choices)
    return f"{', '.join(others)} or {last}" if others else last


def _plural(words: str) -> str:
    """Return words for many: `a string of 1 to 9 characters` becomes `strings of ...`."""
    article, _, rest = words.partition(" ")
    if article != "a":
        return words

    # The noun ends where what is said of it begins.
    noun = _SAID_OF_NOUN.split(rest, maxsplit=1)[0]
    return f"{noun}s{rest[len(noun) :]}"


def _words(node: Node) -> str:
    match node.get("type"):
        case "boolean":
            words = "true or false"
        case "integer":
            words = f"a whole number{_range(node)}"
        case "number":
            words = f"a number{_range(node)}"
        case "string":
            words = "a path" if node.get("format") == "path" else f"a string{_length(node)}"
        case _:
            words = "a table"
    return words


def _range(node: Node) -> str:
    least, most = node.get("minimum"), node.get("maximum")
    if "exclusiveMinimum" in node:
        above = f" above {node['exclusiveMinimum']:g}"
        return above if most is None else f"{above}, at most {_plain(most)}"
    if least is None:
        return ""

    return f" from {_plain(least)}" if most is None else f" from {_plain(least)} to {_plain(most)}"


def _plain(number: float) -> str:
    return str(int(number)) if number == int(number) else str(number)


def _length(node: Node) -> str:
    if "maxLength" in node:
        return f" of {node.get('minLength', 0)} to {node['maxLength']} characters"

    least = node.get("minLength")
    return f" of at least {least} character{'' if least == 1 else 's'}" if least else ""
