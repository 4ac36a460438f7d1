"""Session keys: who talks where, as one string that parses back.

A key has eight parts, an absent one empty:
`agent:<agent>:<platform>:<account>:<chat_type>:<chat>:<thread>:<user>`. Each part is NFC, bytes
outside `[A-Za-z0-9_.-]` are written `~XX`, so a key needs no escaping in a URL and no two different
identities share one. A part that would be long ends in `~~` and a hash.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from gateway.errors import BadRequestError
from gateway.model import AgentId, ChatType, SessionId, SessionKey, clean_text
from gateway.sessions.settings import IDENTITY

if TYPE_CHECKING:
    from datetime import datetime

    from gateway.model import SessionSource
    from gateway.sessions.settings import SessionSettings

MAX_PART_CHARS: Final = 120
"""Longest part as it is written; a longer one keeps its head and gets a hash tail."""
_HEAD_CHARS: Final = 80
_HASH_CHARS: Final = 32
_ROOMS: Final = frozenset({"matrix"})
"""Platforms whose direct chats are rooms of two, where somebody may take another's place."""

_PLAIN = re.compile(rb"[A-Za-z0-9_.-]")
_ALL_PLAIN = re.compile(rf"[A-Za-z0-9_.-]{{0,{MAX_PART_CHARS}}}")
_PART = re.compile(r"(?:[A-Za-z0-9_.-]|~[0-9A-F]{2})*(?:~~[0-9a-f]{32})?")
_KEY = re.compile(
    rf"agent:{_PART.pattern}:{_PART.pattern}:{_PART.pattern}"
    rf":(?:{'|'.join(ChatType)}):{_PART.pattern}:{_PART.pattern}:{_PART.pattern}"
)
SESSION_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@dataclass(frozen=True, slots=True)
class KeyParts:
    """What a session key says. A part with a hash tail stays as it is written."""

    agent: AgentId
    platform: str
    account: str
    chat_type: ChatType
    chat: str
    thread: str
    user: str


def session_key(source: SessionSource, agent: AgentId, policy: SessionSettings) -> SessionKey:
    """Return the key of a source's session with an agent.

    Direct chats go by chat, or by user where there is no chat, on Matrix by both; groups and
    channels by chat and user, threads by thread, unless the policy says otherwise. The direct
    chats of a person whom the policy knows on several platforms are one:
    `agent:<agent>:identity::dm:<name>::`.
    """
    identity = policy.identity_of(source)
    if identity:
        return SessionKey(f"agent:{encode_part(agent)}:{IDENTITY}::{ChatType.DM}:{identity}::")

    chat, user = source.chat_id, source.user_id
    if source.chat_type is ChatType.DM:
        chat, user = chat or user, user if source.platform in _ROOMS else ""
    elif source.chat_type is ChatType.THREAD or source.thread_id:
        user = "" if policy.share_threads else user
    elif policy.share_groups:
        user = ""
    parts = (agent, source.platform, source.account, source.chat_type.value)
    encoded = map(encode_part, (*parts, chat, source.thread_id, user))
    return SessionKey("agent:" + ":".join(encoded))


@lru_cache(maxsize=8192)
def parse_key(text: str) -> KeyParts:
    """Return the parts of a key.

    Raises:
        BadRequestError: it is not a session key.
    """
    if not _KEY.fullmatch(text):
        raise BadRequestError(
            "not a session key; accepted is "
            "agent:<agent>:<platform>:<account>:<chat_type>:<chat>:<thread>:<user>, "
            f"the chat type one of {', '.join(ChatType)}"
        )

    agent, platform, account, chat_type, chat, thread, user = map(decode_part, text.split(":")[1:])
    return KeyParts(AgentId(agent), platform, account, ChatType(chat_type), chat, thread, user)


def agent_of(text: str) -> AgentId:
    """Return the agent of a key; see `parse_key`, which is slower."""
    if not _KEY.fullmatch(text):
        return parse_key(text).agent

    return AgentId(decode_part(text.split(":", 2)[1]))


def new_session_id(now: datetime) -> SessionId:
    """Return a fresh id that sorts by time and cannot be guessed."""
    return SessionId(f"{now:%Y%m%dT%H%M%S}-{secrets.token_hex(6)}")


def encode_part(text: str) -> str:
    """Return a part as it stands in a key."""
    if _ALL_PLAIN.fullmatch(text):
        return text

    raw = unicodedata.normalize("NFC", clean_text(text)).encode()
    encoded = "".join(
        chr(byte) if _PLAIN.match(raw, place) else f"~{byte:02X}" for place, byte in enumerate(raw)
    )
    if len(encoded) <= MAX_PART_CHARS:
        return encoded

    head = encoded[:_HEAD_CHARS]
    # An escape cut in two would not parse back.
    head = head[: head.rfind("~")] if "~" in head[-2:] else head
    return f"{head}~~{hashlib.sha256(raw).hexdigest()[:_HASH_CHARS]}"


def decode_part(part: str) -> str:
    """Return what a part stands for; one with a hash tail as it is written."""
    if "~" not in part or "~~" in part:
        return part

    raw = re.sub(rb"~(..)", lambda match: bytes([int(match[1], 16)]), part.encode())
    return raw.decode(errors="replace")
