"""The rule between identities and channels: who is linked stands on a channel that there is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gateway.config.channels import PLATFORMS, accounts_of
from gateway.config.keys import KeyPath, quoted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


def strange_members(data: Mapping[str, Any]) -> Iterator[tuple[KeyPath, str]]:
    """Yield each member of an identity whose platform or account is not configured.

    Takes values as they are in the file: what has a wrong type is another check's affair.
    """
    sessions = data.get("sessions", {})
    identities = sessions.get("identities", []) if isinstance(sessions, dict) else []
    for index, one in enumerate(identities if isinstance(identities, list) else []):
        members = one.get("members", []) if isinstance(one, dict) else []
        for place, member in enumerate(members if isinstance(members, list) else []):
            if not isinstance(member, str) or member.count("/") < 2:  # noqa: PLR2004 - three parts
                continue

            platform, account, _ = member.split("/", 2)
            path = ("sessions", "identities", index, "members", place)
            if platform == "openai":
                text = "its clients name their sessions, which stay in their own token's name space"
                yield path, f"is a token of the API: {text}; accepted are users of channels"
            elif account not in accounts_of(data, platform):
                text = f"there is no channel {quoted(f'{platform}/{account}')}"
                yield path, f"{text}, accepted is {_accepted(data)}"


def _accepted(data: Mapping[str, Any]) -> str:
    known = [f"{platform}/{name}" for platform in PLATFORMS for name in accounts_of(data, platform)]
    return (
        f"one of: {', '.join(sorted(known))}"
        if known
        else "a user of a [channels] table, and there is none"
    )
