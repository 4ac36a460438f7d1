"""Whether stored tokens mean something: what nobody wrote must let nobody in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gateway.access.tokens import token_of
from gateway.durable.salvaging import columns_of
from gateway.upkeep.findings import Level, Report, Tally, tell

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gateway.durable.connection import Connection


def token_problem(fields: Mapping[str, object]) -> str:
    """Return what is wrong with a token; empty for nothing."""
    try:
        token_of(fields)
    except ValueError as error:
        return str(error)

    return ""


CHECKS: Final[dict[str, Callable[[Mapping[str, object]], str]]] = {"api_tokens": token_problem}
"""The table of tokens, and what tells whether a row means something."""


def check_tokens(report: Report, connection: Connection) -> None:
    """Check every token."""
    bad = Tally("tokens cannot be read")
    columns = columns_of(connection, "api_tokens")
    count = 0
    for row in connection.execute(f"SELECT {', '.join(columns)} FROM api_tokens"):  # noqa: S608 - names of ours
        count += 1
        problem = token_problem(dict(zip(columns, row, strict=True)))
        if problem:
            bad.add(f"row {row[0]} ({problem})")
    fine = f"{count}, revoked ones included"
    tell(report, "tokens of clients", [bad], level=Level.WRONG, fine=fine)
