#!/usr/bin/env python3
"""An agent of the kind `command`: it answers with the text it got, line by line."""
# ruff: noqa: I002, T201, TID251 - a program of anybody's, with the standard library alone

import json
import sys


def say(**line: object) -> None:
    print(json.dumps(line), flush=True)


turn = json.loads(sys.stdin.readline())
for line in turn["messages"][-1]["text"].splitlines(keepends=True):
    say(type="text", text=line)
say(type="done")
