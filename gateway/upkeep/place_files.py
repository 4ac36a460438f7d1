"""How far channels have read, in a file each: whether it says so, and copied only where it does.

A channel does not run with one that it cannot read, for it would pass over what was written
meanwhile. So a backup with such a file would be none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gateway.channels.base import ChannelError
from gateway.channels.matrix.place import PLACES, read_place
from gateway.errors import DamagedDataError, GatewayError
from gateway.upkeep.archive_files import copy_file
from gateway.upkeep.findings import Level, Report, Tally, tell

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.durable.disk import Disk
    from gateway.upkeep.losses import Losses

ASIDE: Final = ".damaged"
"""What a salvage puts behind the name of a file that no channel can read."""


def check_places(report: Report, state_dir: Path) -> None:
    """Check that each file says how far its channel has read."""
    bad, count = Tally("files do not say how far was read"), 0
    for path in sorted(state_dir.glob(PLACES)):
        count += 1
        problem = _problem(path)
        if problem:
            bad.add(problem)
    if count:
        tell(report, "places of channels", [bad], level=Level.WRONG, fine=f"{count} can be read")


def copy_places(state_dir: Path, aside: Path, disk: Disk) -> None:
    """Copy how far channels have read.

    Raises:
        DamagedDataError: a file does not say it.
    """
    for path in sorted(state_dir.glob(PLACES)):
        copy_file(path, aside / path.name, disk)
        # The copy is judged, for a daemon may have replaced the file meanwhile.
        problem = _problem(aside / path.name)
        if problem:
            raise DamagedDataError(path, "does not say how far the channel has read")


def salvage_places(state_dir: Path, aside: Path, losses: Losses, disk: Disk) -> None:
    """Copy how far channels have read; a file that does not say it goes beside, and is told."""
    for path in sorted(state_dir.glob(PLACES)):
        begins = "the channel begins with what is written from then on"
        problem = _problem(path)
        name = f"{path.name}{ASIDE}" if problem else path.name
        try:
            copy_file(path, aside / name, disk)
        except GatewayError as error:
            losses.add(path.name, f"a file that cannot be read: {begins}", str(error))
            continue
        if problem:
            what = f"how far the channel has read: {begins}; the file is kept as {name}"
            losses.add(path.name, what, problem)


def _problem(path: Path) -> str:
    try:
        read_place(path)
    except ChannelError as error:
        return str(error)

    return ""
