"""The names under which tools are offered. Pure.

A name is `<server>_<tool>`: what providers do not take becomes `_`, and what is too long is cut.
Where that makes two tools of a server alike, and where it cuts, the hash of the tool's own name
follows. So a name depends neither on the order of a listing nor on any other server.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection

MAX_NAME_CHARS: Final = 64
"""The longest name that all providers take."""
_HASH_CHARS: Final = 12
_UNFIT: Final = re.compile(r"[^A-Za-z0-9_-]")


def plain_name(server: str, tool: str) -> str:
    """Return the name of a tool were it alone, which may be too long."""
    return f"{server}_{_UNFIT.sub('_', tool)}"


def offered_names(server: str, tools: Collection[str]) -> dict[str, str]:
    """Return the name under which each tool of a server is offered; no two are alike.

    Args:
        server: Its name in the configuration, with none but A-Z a-z 0-9 _ -.
        tools: What the server calls its tools; a name that stands twice counts once.
    """
    plain = {tool: plain_name(server, tool) for tool in sorted(set(tools))}
    shared = Counter(plain.values())
    # Those whose name stays as it is come first: nobody can take it from them.
    as_they_are = [tool for tool in plain if plain[tool] == f"{server}_{tool}"]
    names: dict[str, str] = {}
    taken: set[str] = set()
    for tool in dict.fromkeys((*as_they_are, *plain)):
        name = plain[tool]
        alike = shared[name] > 1 and name != f"{server}_{tool}"
        if alike or len(name) > MAX_NAME_CHARS:
            name = _hashed(name, tool)
        while name in taken:
            name = _hashed(name, f"{name} {tool}")
        taken.add(name)
        names[tool] = name
    return names


def _hashed(name: str, tool: str) -> str:
    digest = hashlib.sha256(tool.encode("utf-8", "surrogatepass")).hexdigest()[:_HASH_CHARS]
    return f"{name[: MAX_NAME_CHARS - _HASH_CHARS - 1]}_{digest}"
