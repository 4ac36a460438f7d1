"""Lines of a dialogue as they are typed: edited, completed with Tab, and called back.

They are remembered as long as the dialogue runs, and written nowhere.
"""

from __future__ import annotations

import readline
from functools import partial
from typing import TYPE_CHECKING, Final

from gateway.commands.parsing import ALIASES, Name

if TYPE_CHECKING:
    from collections.abc import Sequence

CONTEXT: Final = "/context"
"""Asks for the size of the context; the dialogue answers it, not the gateway."""
ENDS: Final = frozenset({"/quit", "/exit"})
"""What ends the dialogue; the gateway does not hear of it."""
HELP: Final = f"""Here alone:
{CONTEXT} - tells how much of the model's window is in use
/quit - ends the dialogue (also /exit and Ctrl-D)"""
"""What of commands the gateway's `/help` does not know."""
_OF_PROCESSES: Final = frozenset({Name.BG, Name.PS})


def commands(*, processes: bool) -> list[str]:
    """Return what can be typed; what is about processes only where there can be any."""
    names = [name for name in Name if processes or name not in _OF_PROCESSES]
    return sorted([*(f"/{name}" for name in (*names, *ALIASES)), CONTEXT, *ENDS])


def completions(typed: str, known: Sequence[str]) -> list[str]:
    """Return the commands that begin so, each as it is to stand in the line."""
    word = typed.lower()
    return [f"{one} " for one in known if one.startswith(word)] if word[:1] == "/" else []


def prepare(known: Sequence[str]) -> None:
    """Let `input` complete commands with Tab; it remembers nothing by itself any more."""
    readline.set_completer(partial(_complete, known))
    # The whole line: a command is its first word.
    readline.set_completer_delims("\n")
    # What macOS has in its place is asked otherwise.
    libedit = "libedit" in (readline.__doc__ or "")
    readline.parse_and_bind("bind ^I rl_complete" if libedit else "tab: complete")
    readline.set_auto_history(False)


def remember(line: str) -> None:
    """Let a line be called back; what was just said is not there twice."""
    count = readline.get_current_history_length()
    if not count or readline.get_history_item(count) != line:
        readline.add_history(line)


def _complete(known: Sequence[str], typed: str, number: int) -> str | None:
    found = completions(typed, known)
    return found[number] if number < len(found) else None
