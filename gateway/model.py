"""The nouns that more than one room speaks of: ids, sources, messages, usage.

All are frozen. Instants are timezone-aware UTC; every number carries its unit in its name.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, NewType

SessionKey = NewType("SessionKey", str)
"""Who talks where; see `gateway.sessions.key`."""
SessionId = NewType("SessionId", str)
"""One conversation under a session key; a reset gives the key a new one."""
TurnId = NewType("TurnId", str)
"""One inbound message and all that answers it."""
AgentId = NewType("AgentId", str)
"""The name of an agent's table in the configuration."""

MAX_NAME_CODE_POINTS: Final = 128
"""Longest name kept of a user or a chat."""


class ChatType(StrEnum):
    """The kind of place a message comes from."""

    DM = "dm"
    GROUP = "group"
    CHANNEL = "channel"
    THREAD = "thread"


class Role(StrEnum):
    """Who speaks in a transcript."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"
    NOTICE = "notice"
    """What the gateway itself told the user; never sent to a model."""


def clean_text(text: str) -> str:
    """Replace lone surrogates by U+FFFD and drop NUL, so that any store and socket takes it."""
    if text.isascii() and "\0" not in text:
        return text

    return text.replace("\0", "").encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def clean_name(name: str) -> str:
    """Return a name fit for logs and dashboards: NFC, one line, at most 128 code points.

    Control, format (bidirectional, zero-width) and unassigned characters and line separators
    become U+FFFD.
    """
    if name.isascii() and name.isprintable():
        return name[:MAX_NAME_CODE_POINTS]

    normal = unicodedata.normalize("NFC", clean_text(name))[:MAX_NAME_CODE_POINTS]
    return "".join("�" if _is_unfit(unicodedata.category(char)) else char for char in normal)


def _is_unfit(category: str) -> bool:
    return category[0] == "C" or category in {"Zl", "Zp"}


# No slots, as in entries: what has an instance dictionary is encoded four times faster.
@dataclass(frozen=True)
class SessionSource:
    """Where a message comes from."""

    platform: str
    """`http`, `telegram`, ...: the channel's name."""
    chat_id: str
    """The platform's own id of the chat."""
    chat_type: ChatType = ChatType.DM
    account: str = ""
    """Which of our accounts on the platform; empty where there is one."""
    thread_id: str = ""
    user_id: str = ""
    user_name: str = ""
    chat_name: str = ""


class AttachmentKind(StrEnum):
    """What somebody sent beside a text."""

    IMAGE = "image"
    AUDIO = "audio"
    VOICE = "voice"
    """A spoken message."""
    VIDEO = "video"
    STICKER = "sticker"
    FILE = "file"
    OTHER = "other"
    """A place, a contact, a poll, ...: its name says what."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """Something sent beside a text, as the platform describes it. It is never fetched."""

    kind: AttachmentKind
    media_type: str = ""
    """`image/png`, ...; empty: the platform does not say."""
    name: str = ""
    """As its sender called it; empty: not at all."""
    size_bytes: int | None = None
    """None: the platform does not say."""


class Change(StrEnum):
    """What a message is to what its sender wrote before."""

    NEW = "new"
    EDITED = "edited"
    """The message of that id, as it reads now."""
    RETRACTED = "retracted"
    """Its sender took the message of that id back; there is no text."""


@dataclass(frozen=True, slots=True)
class Inbound:
    """One message as a channel hands it over, or what became of one."""

    source: SessionSource
    text: str
    """What its sender wrote; may be empty where there are attachments."""
    message_id: str = ""
    """The platform's id of the message, unique in its session; empty: never a duplicate. Of a
    change, the id of the message that is changed."""
    agent: AgentId | None = None
    """An agent asked for by name; None lets the routes choose."""
    typed: bool = True
    """Whether the sender wrote the text themselves, so that a command in it is one: False for what
    is forwarded, quoted, or told by the gateway."""
    bot_name: str = ""
    """Our own name on the platform, as people put it behind a command; empty: it has none."""
    attachments: tuple[Attachment, ...] = ()
    """What came beside the text. Whose turn it is gets a line of each after it."""
    change: Change = Change.NEW
    """A change never begins a turn: it is told of a message that waits, and of no other."""
    named: bool = True
    """Whether it is meant for us: False for what names nobody of ours in a group where only that
    is answered which does."""


@dataclass(frozen=True, slots=True)
class ToolCaller:
    """In whose conversation a tool is called."""

    session_key: SessionKey
    session_id: SessionId
    agent: AgentId
    source: SessionSource
    """Where the message came from that the turn answers."""
    turn_id: TurnId


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A model's wish to run a tool."""

    call_id: str
    name: str
    arguments: str
    """As the model wrote them: JSON text, not parsed."""


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A tool as a model is told of it."""

    name: str
    """1 to 64 characters A-Z a-z 0-9 _ -; unique among the tools of an agent."""
    description: str
    schema: Mapping[str, Any]
    """The JSON Schema of its arguments, an object."""
    strict: bool | None = None
    """Whether a provider that can shall hold the model to the schema; None leaves it open."""
    verbatim: bool = False
    """Whether it goes to the model as it is written, neither cut nor put in another order."""


@dataclass(frozen=True, slots=True)
class Image:
    """A picture in a message."""

    media_type: str
    """`image/png`, ..."""
    data: str
    """Its bytes, in base64."""
    detail: str = ""
    """How closely a model is to look, where its wire has that: `low`, `high` or `auto`."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a transcript or a context."""

    role: Role
    text: str
    tool_calls: tuple[ToolCall, ...] = ()
    """What an assistant message asks for."""
    tool_call_id: str = ""
    """Which call a tool message answers."""
    tool_name: str = ""
    """The tool that a tool message comes from."""
    turn_id: TurnId = TurnId("")
    """The turn it belongs to; empty for a system prompt."""
    images: tuple[Image, ...] = ()
    """What a tool or a user shows beside the text, after it."""
    name: str = ""
    """Who says it among several, where a caller names them; no transcript keeps it."""


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a tool returned; a failure is a result as well, whose text says so."""

    text: str
    images: tuple[Image, ...] = ()


class ProjectionMode(StrEnum):
    """What a context has in place of a message of the transcript."""

    TRIM = "trim"
    """Of a tool result: its beginning and its end; of its images a marker."""
    CLEAR = "clear"
    """Of a tool result: a placeholder."""
    OMIT = "omit"
    """Of a turn and of all turns before it: nothing."""
    SKIP = "skip"
    """Of one turn, whose message was refused: nothing."""


@dataclass(frozen=True, slots=True)
class Projection:
    """What stands in place of one tool result, or of the turns up to one, and how it is made."""

    item: str
    """A tool result, as `gateway.context.projection.tool_item` names it, or the id of a turn."""
    mode: ProjectionMode
    max_chars: int = 0
    """Of a trim: texts that are not longer stay whole."""
    head_chars: int = 0
    tail_chars: int = 0
    placeholder: str = ""
    """Of a clearing: what stands in place of the text."""
    through: int | None = None
    """Of turns left out: the position of their last message; None where nobody noted it."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a provider counted for model calls, in tokens. Sums over calls add up field by field."""

    input_tokens: int = 0
    """Uncached input."""
    output_tokens: int = 0
    """All output, `reasoning_tokens` among it."""
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    """All input that was written to the prompt cache, `cache_write_1h_tokens` among it."""
    cache_write_1h_tokens: int = 0
    """What was written to live for an hour."""
    reasoning_tokens: int = 0
    """Output that nobody sees."""

    @property
    def context_tokens(self) -> int:
        """The size of the request that was measured: all input, cached or not."""
        return self.input_tokens + self.cache_read_tokens + self.cache_write_tokens

    @property
    def total_tokens(self) -> int:
        """Everything counted."""
        return self.context_tokens + self.output_tokens

    def __add__(self, other: Usage) -> Usage:
        """Add field by field."""
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cache_read_tokens + other.cache_read_tokens,
            self.cache_write_tokens + other.cache_write_tokens,
            self.cache_write_1h_tokens + other.cache_write_1h_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
        )


class ContextSource(StrEnum):
    """How a context size was found."""

    USAGE = "usage"
    """A provider counted it in its last single request."""
    ESTIMATE = "estimate"
    """What a provider would count, by the characters and by how it has counted so far."""
    UNKNOWN = "unknown"
    """Nobody measured it yet."""


@dataclass(frozen=True, slots=True)
class ContextMeasurement:
    """The size of a session's context: what was measured, when and how."""

    tokens: int
    window_tokens: int
    source: ContextSource
    measured_at: datetime
    step: int
    """Number of this measurement within its session id; a later one has the higher number."""


class CallPurpose(StrEnum):
    """What a request to a model was for."""

    TURN = "turn"
    """To answer."""
    COMPACTION = "compaction"
    """To summarise old turns; its size says nothing of the session's context."""
    SUMMARY = "summary"
    """To summarise one stored item; nor does this."""


@dataclass(frozen=True, slots=True)
class ModelCall:
    """One finished request to a model."""

    model: str
    started_at: datetime
    usage: Usage | None
    """None where the provider counted nothing."""
    cache_counted: bool = True
    """Whether the provider tells what it read from its prompt cache; else `usage` has 0 there."""
    purpose: CallPurpose = CallPurpose.TURN


@dataclass(frozen=True, slots=True)
class Summary:
    """What stands in a context in place of a session's oldest turns."""

    through_turn: TurnId
    """The newest turn it covers."""
    turns: int
    """How many it covers, those of the summary before among them."""
    text: str
    agent: AgentId
    """Who wrote it."""
    model: str
    tokens_before: int
    """The size of the request, estimated, had there been no summary."""
    tokens_after: int
    through: int | None = None
    """The position of the last message it covers; None where nobody noted it."""
