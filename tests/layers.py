"""The import graph of the house, read from source: rooms, their floors, and the rules.

FLOORS is the table. A new room gets its line here, and thereby its floor, before its first import.
Nothing of the package is imported. Each rule takes what was read and yields its faults as text.
"""

from __future__ import annotations

import ast
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FLOORS: Final = {
    "errors": 0,
    "clock": 0,
    "metering": 0,
    "model": 0,
    "settings": 0,
    "strict_json": 0,
    "text": 0,
    "durable": 1,
    "launch": 1,
    "log": 1,
    "secret_values": 1,
    "metrics": 1,
    "signing": 1,
    "systemd": 1,
    "variables": 1,
    "access": 2,
    "sessions": 2,
    "context": 2,
    "events": 2,
    "pruning": 2,
    "transcripts": 2,
    "processes": 2,
    "agents": 2,
    "tools": 2,
    "channels": 2,
    "webhooks": 2,
    "turns": 3,
    "watcher": 3,
    "retention": 3,
    "upkeep": 3,
    "delivery": 3,
    "commands": 4,
    "config": 5,
    "api": 5,
    "daemon": 6,
    "cli": 7,
    "__main__": 8,
}
"""The floor of each room: a module or package directly under gateway/."""

SDKS: Final = {
    "aiogram": {
        f"gateway.channels.telegram.{name}" for name in ("api", "channel", "polling", "webhook")
    },
    "anthropic": {"gateway.agents.anthropic"},
    "mcp": {f"gateway.tools.{name}" for name in ("client", "http", "lines", "stdio", "wire")},
    "nio": {
        f"gateway.channels.matrix.{name}"
        for name in ("api", "behind", "channel", "gap", "joining", "sync")
    },
    "openai": {"gateway.agents.openai"},
}
"""The modules that may import each vendor's SDK; they load it, so nobody else loads them early."""

SDK_TYPES: Final = {
    "gateway.channels.telegram.inbound": "aiogram",
    "gateway.tools.results": "mcp",
}
"""Modules that may name an SDK's types, and never load it."""

STAND_ALONE: Final = frozenset({"gateway.processes.keeper"})
"""Programs of their own, which import the standard library alone and have its clock and disk."""

SETTINGS_OF_ALL: Final = "config"
"""The room that puts the settings classes of all parts together, those of its own floor too."""


@dataclass(frozen=True, slots=True)
class Use:
    """One place in the source that reaches out of its module."""

    place: str
    """`path:line`, the path relative to the package's parent."""
    module: str
    """Dotted name of the module that does it."""
    target: str
    """Dotted name imported, or reached as an attribute of an imported name."""
    imported: bool
    """Whether the place is an import statement."""
    deferred: bool
    """Whether the place runs only when a function is called, or never (type checking)."""
    typing_only: bool
    """Whether the place is under `if TYPE_CHECKING:`."""

    @property
    def room(self) -> str:
        """The room under the package that holds the place; empty for its `__init__`."""
        return _room(self.module)


class _Reader(ast.NodeVisitor):
    """Collects the uses of one module; an alias is followed to the name it stands for."""

    def __init__(self, place: str, module: str) -> None:
        self.uses: list[Use] = []
        self._place = place
        self._module = module
        self._names: dict[str, str] = {}
        self._functions = 0
        self._typing = 0

    def _add(self, node: ast.stmt | ast.expr, target: str, *, imported: bool) -> None:
        deferred = bool(self._functions or self._typing)
        place = f"{self._place}:{node.lineno}"
        self.uses.append(
            Use(place, self._module, target, imported, deferred, typing_only=bool(self._typing))
        )

    @override
    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._names[alias.asname or alias.name.partition(".")[0]] = (
                alias.name if alias.asname else alias.name.partition(".")[0]
            )
            self._add(node, alias.name, imported=True)

    @override
    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        source = "." * node.level + (node.module or "")
        for alias in node.names:
            target = f"{source}.{alias.name}"
            self._names[alias.asname or alias.name] = target
            self._add(node, target, imported=True)

    @override
    def visit_Attribute(self, node: ast.Attribute) -> None:
        self._add(node, self._dotted(node), imported=False)
        self.generic_visit(node)

    @override
    def visit_If(self, node: ast.If) -> None:
        typing_only = self._dotted(node.test).endswith("TYPE_CHECKING")
        self._typing += typing_only
        for child in node.body:
            self.visit(child)
        self._typing -= typing_only
        self.visit(node.test)
        for child in node.orelse:
            self.visit(child)

    @override
    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._functions += 1
        self.generic_visit(node)
        self._functions -= 1

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815 - named by ast

    def _dotted(self, node: ast.expr) -> str:
        if isinstance(node, ast.Name):
            return self._names.get(node.id, node.id)
        if isinstance(node, ast.Attribute):
            return f"{self._dotted(node.value)}.{node.attr}"
        return ""


def _room(dotted: str) -> str:
    return dotted.partition(".")[2].partition(".")[0]


def read_package(package: Path) -> list[Use]:
    """Return every use in the modules under `package`, in the order of paths and lines."""
    uses: list[Use] = []
    for path in sorted(package.rglob("*.py")):
        relative = path.relative_to(package.parent)
        parts = relative.with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        reader = _Reader(str(relative), module)
        reader.visit(ast.parse(path.read_bytes(), str(path)))
        uses += reader.uses
    return uses


def rooms_without_a_floor(package: Path) -> Iterator[str]:
    """Yield a fault for each module or package directly under `package` that the table lacks."""
    for path in sorted(package.iterdir()):
        known = path.stem in FLOORS or path.name in {"__init__.py", "__pycache__", "py.typed"}
        if not known and (path.suffix == ".py" or any(path.glob("**/*.py"))):
            yield f"gateway/{path.name}: no floor; add it to FLOORS in tests/layers.py"


def imports_not_strictly_down(uses: list[Use]) -> Iterator[str]:
    """Yield a fault for each import of a room on the same floor or above, and each relative one."""
    for use in uses:
        if not use.imported:
            continue
        if use.target.startswith("."):
            yield f"{use.place}: relative import {use.target}"
        if not use.target.startswith("gateway.") or _room(use.target) == use.room:
            continue
        below, above = FLOORS.get(_room(use.target)), FLOORS.get(use.room, -1)
        if below is None:
            continue  # A name of gateway/__init__, or a room without a floor: a fault of its own.
        settings_of_all = use.room == SETTINGS_OF_ALL and _names_settings(use.target)
        if below > above or (below == above and not settings_of_all):
            yield f"{use.place}: {use.room} (floor {above}) imports {use.target} (floor {below})"


def time_outside_the_clock(uses: list[Use]) -> Iterator[str]:
    """Yield a fault for each use of a time source or a sleep outside gateway/clock.py."""
    calls = {
        *(f"datetime.{kind}.{name}" for kind in ("date", "datetime") for name in ("now", "today")),
        *("datetime.datetime.utcnow", "anyio.sleep", "anyio.sleep_until"),
        *("anyio.current_time", "asyncio.sleep"),
    }
    for use in uses:
        a_clock = use.target in calls or use.target.split(".")[0] == "time"
        if a_clock and use.room != "clock" and use.module not in STAND_ALONE:
            yield f"{use.place}: {use.target}; only gateway/clock.py asks for the time or waits"


def storage_outside_durable(uses: list[Use]) -> Iterator[str]:
    """Yield a fault for each sync and each SQLite driver outside gateway/durable/."""
    for use in uses:
        parts = use.target.split(".")
        a_driver = use.imported and parts[0] in {"apsw", "sqlite3"}
        a_sync = parts[-1] in {"fsync", "fdatasync"} and use.module not in STAND_ALONE
        if use.room != "durable" and (a_driver or a_sync):
            yield f"{use.place}: {use.target}; only gateway/durable/ syncs or opens SQLite"


def programs_that_import_more(uses: list[Use]) -> Iterator[str]:
    """Yield a fault where a program of its own imports more than the standard library."""
    for use in uses:
        if use.imported and use.module in STAND_ALONE:
            top = use.target.split(".")[0]
            if top not in sys.stdlib_module_names:
                yield f"{use.place}: {use.target}; it starts without the gateway"


def sdk_outside_its_place(uses: list[Use]) -> Iterator[str]:
    """Yield a fault where a vendor's SDK is imported elsewhere, or its modules at import time."""
    for use in uses:
        if not use.imported:
            continue
        top = use.target.split(".")[0]
        typed = use.typing_only and SDK_TYPES.get(use.module) == top
        if top in SDKS and use.module not in SDKS[top] and not typed:
            homes = ", ".join(sorted(SDKS[top])).replace(".", "/")
            yield f"{use.place}: {use.target}; SDK types stop in {homes}"
        for sdk, places in SDKS.items():
            loads = any(f"{use.target}.".startswith(f"{place}.") for place in places)
            if loads and use.module not in places and not use.deferred:
                yield f"{use.place}: {use.target} loads the SDK of {sdk}; import it in a function"


MANAGING: Final = ("engine", "flights", "interludes", "manager", "shared")
"""The modules of `pruning` that run tasks; all others are pure."""


def impure_rooms(uses: list[Use]) -> Iterator[str]:
    """Yield a fault where a pure room imports I/O, by itself or through a module it imports."""
    banned = {"anyio", "asyncio", "apsw", "sqlite3", "structlog"}
    modules = {use.module for use in uses}
    managing = {"gateway.pruning", *(f"gateway.pruning.{one}" for one in MANAGING)}
    for module in sorted(modules - managing):
        if _room(module) in {"context", "pruning"}:
            yield from _reaches(module, banned, uses, modules)


def _names_settings(dotted: str) -> bool:
    return dotted.split(".")[2:3] == ["settings"]


def _reaches(start: str, banned: set[str], uses: list[Use], modules: set[str]) -> Iterator[str]:
    seen, waiting = {start}, [start]
    while waiting:
        module = waiting.pop()
        for use in uses:
            if use.module != module or not use.imported or (use.typing_only and module != start):
                continue
            if use.target.split(".")[0] in banned:
                yield f"{start} must stay pure: {use.place} imports {use.target}"
            for name in {use.target, use.target.rpartition(".")[0]} & modules - seen:
                seen.add(name)
                waiting.append(name)
