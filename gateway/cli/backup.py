"""`gateway backup`: a copy of the state directory from which a gateway starts."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from gateway.cli.options import ConfigOption, JsonOption, StateDirOption, Where
from gateway.cli.output import reporting


def backup(
    target: Annotated[
        Path, typer.Argument(metavar="DIR", help="A new directory, or an empty one.")
    ],
    *,
    config: ConfigOption = None,
    state_dir: StateDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Copy the state directory, while its gateway runs or not.

    The copy holds everything that was acknowledged before the command was started, and is a state
    directory itself: gateway run --state-dir DIR.
    """
    with reporting(as_json=as_json) as screen:
        from gateway.cli.client import check_is_state
        from gateway.clock import SystemClock
        from gateway.upkeep.backup import back_up

        settings = Where(config, state_dir).load().config
        check_is_state(settings.state_dir)
        mode = 0o710 if settings.store.dashboard_group else 0o700
        made = back_up(settings.state_dir, target, SystemClock(), mode=mode)
        if as_json:
            screen.document(asdict(made))
        else:
            screen.line(
                f"{made.path}: {made.entries} sessions up to change {made.sequence}, "
                f"{made.messages} messages, {made.bytes} bytes, in {made.duration_ms / 1000:.1f} s"
            )
            screen.note(f"start from it with: gateway run --state-dir {made.path}")
