"""Lines of a dialogue as they are typed: edited, completed with Tab, and called back.

They are remembered as long as the dialogue runs, and written nowhere.
"""

from __future__ import annotations

import readline
from typing import Final

from gateway.commands.parsing import Name

CONTEXT: Final = "/context"
"""Asks for the size of the context; the dialogue answers it, not the gateway."""
_COMMANDS: Final = sorted([*(f"/{name}" for name in Name), CONTEXT])


def completions(typed: str) -> list[str]:
    """Return the commands that begin so, each as it is to stand in the line."""
    word = typed.lower()
    return [f"{one} " for one in _COMMANDS if one.startswith(word)] if word[:1] == "/" else []


def prepare() -> None:
    """Let `input` complete commands with Tab; it remembers nothing by itself any more."""
    readline.set_completer(_complete)
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


def _complete(typed: str, number: int) -> str | None:
    found = completions(typed)
    return found[number] if number < len(found) else None
