"""The agent of the trial that takes its time, so that its answers grow in their chats."""

from __future__ import annotations

import sys
from typing import Final

import orjson

AGENT: Final = "slow"
SLOWLY: Final = "slowly"
"""A text that ends so is answered word by word."""
WORDS: Final = 13
PAUSE_S: Final = 0.2
"""Between two words: longer in all than it takes until a part is shown and edited once."""
_PROGRAM: Final = f"""
import json, sys, time

def say(**line):
    print(json.dumps(line), flush=True)

asked = json.loads(sys.stdin.readline())["messages"][-1]["text"]
say(type="text", text=asked)
for number in range({WORDS} if {SLOWLY!r} in asked.split() else 0):
    time.sleep({PAUSE_S})
    say(type="text", text=f" w{{number}}")
say(type="done")
"""


def config() -> str:
    """Return the table of the agent."""
    argv = orjson.dumps([sys.executable, "-I", "-S", "-c", _PROGRAM]).decode()
    return f'[agents.main]\nkind = "echo"\n[agents.{AGENT}]\nkind = "command"\nargv = {argv}\n'


def answer_to(text: str) -> str:
    """Return what a text is answered with, whoever answers."""
    if SLOWLY not in text.split():
        return text

    return " ".join([text, *(f"w{number}" for number in range(WORDS))])
