"""The rule between identities and channels: who is linked stands on a channel that there is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gateway.config.channels import channels_are_known
from gateway.config.keys import KeyPath, quoted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


def strange_members(data: Mapping[str, Any]) -> Iterator[tuple[KeyPath, str]]:
    """Yield each member of an identity whose platform or account is not configured.

    Takes values as they are in the file: what has a wrong type is another check's affair.
    """
    channels, sessions = data.get("channels", {}), data.get("sessions", {})
    identities = sessions.get("identities", []) if isinstance(sessions, dict) else []
    if not channels_are_known(data) or not isinstance(identities, list):
        return

    kinds = {f"{table.get('kind')}/{account}" for account, table in _tables(channels)}
    for index, one in enumerate(identities):
        members = one.get("members", []) if isinstance(one, dict) else []
        for place, member in enumerate(members if isinstance(members, list) else []):
            if not isinstance(member, str) or member.count("/") < 2:  # noqa: PLR2004 - three parts
                continue

            channel = "/".join(member.split("/")[:2])
            path = ("sessions", "identities", index, "members", place)
            if channel.startswith("openai/"):
                text = "its clients name their sessions, which stay in their own token's name space"
                yield path, f"is a token of the API: {text}; accepted are users of channels"
            elif channel not in kinds:
                known = ", ".join(sorted(kinds)) or "a [channels] table, and there is none"
                yield path, f"there is no channel {quoted(channel)}, accepted is one of: {known}"


def _tables(channels: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    return ((name, table) for name, table in channels.items() if isinstance(table, dict))
