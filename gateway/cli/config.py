"""`gateway init` and `gateway check-config`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.options import DEFAULT_FILE, ConfigOption, JsonOption, StateDirOption, Where
from gateway.cli.output import Screen, findings, reporting
from gateway.errors import ConfigurationError, ConflictError, ExitCode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.config import GatewayConfig


def init(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write it.")] = DEFAULT_FILE,
    *,
    as_json: JsonOption = False,
) -> None:
    """Write a configuration file.

    Every key is in it at its default. A file that is there already stays as it is.
    """
    with reporting(as_json=as_json) as screen:
        from gateway.config import render_default_file

        _write_new(path, render_default_file())
        if as_json:
            screen.document({"path": str(path)})
        else:
            screen.line(f"wrote {path}; start with: gateway run --config {path}")


def check_config(
    *,
    config: ConfigOption = None,
    state_dir: StateDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check the configuration, and what it names on this machine.

    What it names are secrets, a group and programs. Every problem is told; with one or more the
    exit status is 78.
    """
    with reporting(as_json=as_json) as screen:
        from gateway.config import RefusedConfigurationError, check_here, doubtful_here

        where = Where(config, state_dir)
        settings: GatewayConfig | None = None
        try:
            loaded = where.load()
        except RefusedConfigurationError as exc:
            problems = (*exc.problems, *check_here(exc.sound, exc.places, given=exc.given))
            warnings = exc.warnings
        except ConfigurationError as exc:
            problems, warnings = exc.problems, exc.warnings
        else:
            settings = loaded.config
            problems = check_here(settings, loaded.places)
            mended = loaded.warnings_if_refused if problems else loaded.warnings
            warnings = (*mended, *loaded.doubts, *doubtful_here(settings, loaded.places))
        _show_findings(screen, settings, problems, warnings)
        if problems:
            raise typer.Exit(ExitCode.CONFIGURATION)


def _show_findings(
    screen: Screen,
    settings: GatewayConfig | None,
    problems: Sequence[str],
    warnings: Sequence[str],
) -> None:
    facts = {} if settings is None else _facts(settings)
    if screen.as_json:
        lists = {"problems": problems, "warnings": warnings}
        screen.document({"ok": not problems, **lists, **facts})
        return

    for text in findings(problems, warnings):
        screen.line(text)
    if not problems:
        screen.line("ok")
        screen.facts(list(facts.items()))


def _facts(settings: GatewayConfig) -> dict[str, str]:
    host = settings.http.host
    address = f"[{host}]" if ":" in host else host
    return {
        "listens_on": f"http://{address}:{settings.http.port}",
        "state_dir": str(settings.state_dir.absolute()),
    }


def _write_new(path: Path, text: str) -> None:
    """Write a file that is not there yet, whole or not at all."""
    try:
        file = path.open("x", encoding="utf-8")
    except FileExistsError:
        raise ConflictError(f"{path}: is there already, accepted is a name that is free") from None

    try:
        with file:
            file.write(text)
    except OSError:
        path.unlink(missing_ok=True)
        raise
