"""What commands write: tables, facts, JSON documents, and errors, a line each.

Text that users and platforms chose can hold anything: characters that steer a terminal are written
as escapes, in JSON as well. Results go to standard output, notes and errors to standard error.
"""

from __future__ import annotations

import re
import shutil
import sys
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import orjson
import typer

from gateway.errors import ConfigurationError, ExitCode, GatewayError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

REFUSED: Final = 1
"""Exit status of a request that was refused: nothing is broken."""
INTERRUPTED: Final = 130

# Controls, bidirectional and invisible format characters, surrogates. The joiners of emoji and of
# several scripts are harmless and stay.
_STEERING: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)
_BREAKS: Final = re.compile("[\t\n]")
_AT_LINE: Final = re.compile(r":(\d+): ")


class ProblemError(GatewayError):
    """The gateway refused the request."""

    def __init__(self, status: int, document: dict[str, Any]) -> None:
        """Keep the HTTP status and the problem object that came with it."""
        self.status = status
        self.document = document
        title = str(document.get("title") or f"HTTP status {status}")
        detail = str(document.get("detail") or "")
        super().__init__(f"{title}: {detail}" if detail else title)


class Screen:
    """Where a command writes its results and notes."""

    def __init__(self, *, as_json: bool) -> None:
        """Write to standard output; as one JSON document where `as_json` says so."""
        self.as_json = as_json

    def document(self, value: object) -> None:
        """Write a JSON document: indented for a terminal, else on one line."""
        write(json_text(value, indent=sys.stdout.isatty()) + "\n")

    def line(self, text: str) -> None:
        """Write a line."""
        write(safe(text) + "\n")

    def note(self, text: str) -> None:
        """Write a line that is no part of the result."""
        write(safe(text) + "\n", error=True)

    def facts(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Write names and values, aligned."""
        width = max((len(name) for name, _ in pairs), default=0)
        for name, value in pairs:
            self.line(f"{name:<{width}}  {_BREAKS.sub(_escape, value)}".rstrip())

    def table(
        self,
        columns: Sequence[str],
        rows: Sequence[Sequence[str]],
        *,
        folded: str | None = None,
    ) -> None:
        """Write a table: ruled at a terminal, else aligned and never cut.

        What does not fit the terminal is folded: of one column, if it is named, else of any.
        """
        cells = [[safe_name(cell) for cell in row] for row in rows]
        if sys.stdout.isatty():
            _write_ruled(columns, cells, folded)
            return

        widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
        for row in (columns, *cells):
            pieces = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
            write("  ".join(pieces).rstrip() + "\n")


@contextmanager
def reporting(*, as_json: bool) -> Generator[Screen]:
    """Give a command its screen, and end it with a line and its exit status where it fails."""
    try:
        for stream in (sys.stdout, sys.stderr):
            # A terminal that cannot show a character shows its number.
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
        yield Screen(as_json=as_json)
        sys.stdout.flush()
    except GatewayError as exc:
        _report(exc, as_json=as_json)
        raise typer.Exit(exit_status(exc)) from None
    except BrokenPipeError:  # who reads has seen enough; the runner of commands ends it silently
        raise
    except OSError as exc:
        place = f"{exc.filename}: " if exc.filename else ""
        _report(GatewayError(f"{place}{exc.strerror or exc}"), as_json=as_json)
        raise typer.Exit(ExitCode.STORAGE) from None
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


def exit_status(error: GatewayError) -> int:
    """Return the exit status that says what kind of error it was."""
    if isinstance(error, ProblemError):
        if error.status in {401, 421}:
            return ExitCode.CONFIGURATION
        return REFUSED if error.status < 500 else ExitCode.UNAVAILABLE  # noqa: PLR2004 - HTTP

    return REFUSED if isinstance(error, RefusedError) else error.exit_code


def findings(problems: Sequence[str], warnings: Sequence[str]) -> list[str]:
    """Return problems and warnings of a configuration as one list in the order of the file."""
    marked = [*problems, *(f"{warning} (a warning)" for warning in warnings)]
    return sorted(marked, key=_line_of)


def write(text: str, *, error: bool = False) -> None:
    """Write text as it is, at once."""
    stream = sys.stderr if error else sys.stdout
    stream.write(text)
    stream.flush()


def safe(text: str) -> str:
    """Return text of several lines with everything escaped that steers a terminal."""
    return _STEERING.sub(_escape, text)


def safe_name(text: str) -> str:
    """Return text on one line, with everything escaped that steers a terminal."""
    return _BREAKS.sub(_escape, safe(text))


def json_text(value: object, *, indent: bool = False) -> str:
    """Return JSON whose strings steer no terminal; it means the same."""
    text = orjson.dumps(value, option=orjson.OPT_INDENT_2 if indent else None).decode()
    return _STEERING.sub(_json_escape, text)


def local_time(instant: str | None) -> str:
    """Return an RFC 3339 instant as people here write it, or a dash where there is none."""
    if not instant:
        return "-"

    return f"{datetime.fromisoformat(instant).astimezone():%Y-%m-%d %H:%M:%S %Z}"


def flat_facts(value: object, name: str = "") -> list[tuple[str, str]]:
    """Return a JSON object as dotted names and their values, in its order."""
    if isinstance(value, dict):
        return [
            pair
            for key, item in value.items()
            for pair in flat_facts(item, f"{name}.{key}" if name else str(key))
        ]
    if isinstance(value, str) and name.endswith(("_at", "_since")):
        return [(name, local_time(value))]
    if isinstance(value, bool):
        return [(name, "yes" if value else "no")]

    if isinstance(value, float):
        return [(name, f"{value:.3f}".rstrip("0").rstrip("."))]

    return [(name, "-" if value in (None, "") else str(value))]


def _write_ruled(columns: Sequence[str], rows: Sequence[Sequence[str]], folded: str | None) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        # What does not fit is folded: keys are there to be copied.
        table.add_column(column, overflow="fold", no_wrap=folded not in {None, column})
    for row in rows:
        table.add_row(*map(Text, row))
    # By itself it takes every plain terminal for one of 80 columns.
    size = shutil.get_terminal_size()
    Console(highlight=False, width=size.columns, height=size.lines).print(table)


def _report(error: GatewayError, *, as_json: bool) -> None:
    sys.stdout.flush()
    if as_json:
        text = json_text(_problem(error))
    elif isinstance(error, ConfigurationError):
        lines = findings(error.problems, error.warnings)
        text = "\n".join(f"gateway: {safe_name(line)}" for line in lines)
    else:
        text = f"gateway: {safe_name(str(error))}"
    write(text + "\n", error=True)


def _problem(error: GatewayError) -> dict[str, Any]:
    status = int(exit_status(error))
    if isinstance(error, ProblemError):
        return {**error.document, "exit_status": status}

    problem: dict[str, Any] = {
        "type": "about:blank",
        "title": (type(error).__doc__ or "").strip().rstrip("."),
        "detail": safe(str(error)),
        "exit_status": status,
    }
    if isinstance(error, ConfigurationError):
        problem["problems"] = [safe(text) for text in error.problems]
        problem["warnings"] = [safe(text) for text in error.warnings]
    return problem


def _line_of(finding: str) -> tuple[bool, int]:
    """Return what sorts findings by line; those without one come last, in their order."""
    match = _AT_LINE.search(finding)
    return match is None, int(match[1]) if match else 0


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape", "surrogatepass").decode()


def _json_escape(match: re.Match[str]) -> str:
    units = match[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))
