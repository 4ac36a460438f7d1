"""What every command takes: which configuration, which state directory, which form of output."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.config import Loaded

DEFAULT_FILE: Final = Path("gateway.toml")
"""The configuration of whoever works in this directory."""
_FILE_VARIABLE: Final = "GATEWAY_CONFIG"


def _path(text: str) -> Path:
    if not text:
        raise typer.BadParameter("is empty, accepted is a path.")

    return Path(text)


ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        metavar="FILE",
        parser=_path,
        help="The configuration; default: $GATEWAY_CONFIG, else ./gateway.toml if it is there.",
    ),
]
StateDirOption = Annotated[
    Path | None,
    typer.Option(
        "--state-dir",
        metavar="DIR",
        parser=_path,
        help="The state directory; default: the one that the configuration names.",
    ),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Write one JSON document; errors as problem objects.")
]
KeyArgument = Annotated[
    str,
    typer.Argument(metavar="KEY", help="The session key, as `gateway sessions list` shows it."),
]


@dataclass(frozen=True, slots=True)
class Where:
    """Which gateway a command means."""

    config_file: Path | None
    """`--config`, where it was given."""
    state_dir: Path | None
    """`--state-dir`, where it was given."""
    others: Mapping[str, object] = field(default_factory=dict)
    """What other options change in the configuration, by dotted key."""

    @property
    def names_directory_alone(self) -> bool:
        """Whether no configuration is needed to find the state directory."""
        return self.state_dir is not None and self.config_file is None

    def file(self) -> Path | None:
        """Return the configuration file, or None where the defaults alone count."""
        if self.config_file is not None:
            return self.config_file
        if os.environ.get(_FILE_VARIABLE):
            return Path(os.environ[_FILE_VARIABLE])

        # A link to nowhere is a mistake to tell, not a file that is not there.
        return DEFAULT_FILE if DEFAULT_FILE.exists() or DEFAULT_FILE.is_symlink() else None

    def load(self) -> Loaded:
        """Return the configuration, with what the options change in it.

        Raises:
            ConfigurationError: every problem of it at once.
        """
        from gateway.config import load

        overrides = dict(self.others)
        if self.state_dir is not None:
            overrides["state_dir"] = str(self.state_dir)
        return load(self.file(), os.environ, overrides)
