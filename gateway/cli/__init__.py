"""The command line: `gateway run`, and what asks or changes a gateway from outside.

Commands speak to a running daemon over its HTTP API, found by its state directory. Where none runs
they open the state directory themselves and speak to the very same API in this process. A command
imports its weight when it is called, so that help and completion stay quick.
"""

from __future__ import annotations


def main() -> None:
    """Run the command that the arguments name, and end the process with its status."""
    from gateway.cli.app import app

    app(prog_name="gateway")
