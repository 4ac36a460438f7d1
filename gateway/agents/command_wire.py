"""The JSON lines between the gateway and a program that answers. Pure.

A program is given one line with the whole conversation, and writes a line for each thing it does.
It is held to the protocol: an answer is whole only with its `done`, and what cannot be read ends
it. Knows no process: `gateway.agents.command`, above, runs it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from gateway.agents.base import MessageFinished, ModelCallFinished, TextDelta
from gateway.errors import AgentError, AgentFailure
from gateway.metering import TooManyValuesError, ValueMeter
from gateway.model import Message, ModelCall, Role, ToolCall, Usage, clean_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from gateway.agents.base import AgentEvent
    from gateway.model import TurnId

VERSION: Final = 1
"""Of the line that a program is given."""
MAX_ERROR_CHARS: Final = 4_000
"""Of what a program lets the user read."""
MAX_LINE_VALUES: Final = 10_000
"""Of JSON in one line: what a megabyte of empty lists makes would hold the event loop for long."""
MAX_CALLS: Final = 1_000
"""Of one message: it is finished at once, with all their results."""
BROKEN_OFF: Final = "The agent's answer broke off. Please try again."
NO_ANSWER: Final = "The agent gave no answer. Please try again."
TOO_MUCH: Final = "The agent's answer has no end, and was stopped."
_PIECE_BYTES: Final = 65_536
_MAX_KEYS: Final = 16
"""More than any line has; each unknown one would cost a sentence of pydantic's."""

Tokens = Annotated[int, Field(ge=0, le=1_000_000_000)]
CallId = Annotated[str, Field(pattern=r"^[!-~]{1,256}$")]


class _Line(BaseModel):
    """What a program may write; a key that is not known is a mistake that would go unnoticed."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)


class _Text(_Line):
    type: Literal["text"]
    text: str


class _ToolCall(_Line):
    type: Literal["tool_call"]
    id: CallId
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    arguments: dict[str, Any] = {}


class _ToolResult(_Line):
    type: Literal["tool_result"]
    id: CallId
    text: str


class _Usage(_Line):
    type: Literal["usage"]
    input_tokens: Tokens
    output_tokens: Tokens
    cache_read_tokens: Tokens | None = None
    cache_write_tokens: Tokens = 0
    model: Annotated[str, Field(min_length=1, max_length=256)] | None = None


class _Error(_Line):
    type: Literal["error"]
    text: Annotated[str, Field(min_length=1)]


class _Done(_Line):
    type: Literal["done"]


AnyLine = _Text | _ToolCall | _ToolResult | _Usage | _Error | _Done
_LINES: Final[TypeAdapter[AnyLine]] = TypeAdapter(
    Annotated[AnyLine, Field(discriminator="type")],
)
_TYPES: Final = "text, tool_call, tool_result, usage, error, done"


def turn_line(session: str, messages: Sequence[Message]) -> Iterator[bytes]:
    """Yield the line that a program is given, in pieces; notices are left out.

    Made piece by piece, so that a long conversation neither holds the event loop nor is in memory
    twice.
    """
    head = {"type": "turn", "version": VERSION, "session": session, "messages": []}
    piece = bytearray(orjson.dumps(head)[:-2])
    said = [message for message in messages if message.role is not Role.NOTICE]
    for index, message in enumerate(said):
        piece += b"," if index else b""
        piece += orjson.dumps(_wire_message(message))
        if len(piece) >= _PIECE_BYTES:
            yield bytes(piece)
            piece.clear()
    piece += b"]}\n"
    yield bytes(piece)


class Answer:
    """What a program has written so far, read line by line."""

    def __init__(
        self,
        program: str,
        model: str,
        turn_id: TurnId,
        started_at: datetime,
        *,
        max_bytes: int,
        max_line_bytes: int,
    ) -> None:
        """Begin.

        Args:
            program: Its name for the log.
            model: Who answers, where the program does not say it.
            turn_id: The turn that is answered.
            started_at: When it was asked.
            max_bytes: Of the whole output.
            max_line_bytes: Of a line, its end not counted.
        """
        self.done = False
        """Whether the answer is whole."""
        self._program = program
        self._model = model
        self._turn_id = turn_id
        self._asked_at = started_at
        self._max_bytes = max_bytes
        self._max_line_bytes = max_line_bytes
        self._bytes = 0
        self._lines = 0
        self._rest = bytearray()
        """Of a line whose end has not come."""
        self._meter = ValueMeter(MAX_LINE_VALUES)
        """Of that line."""
        self._spoke = False
        self._counted = False
        self._text = ""
        self._calls: dict[str, ToolCall] = {}
        """Those of the message that is not finished; it is once all have their results."""
        self._results: dict[str, Message] = {}
        self._ids: set[str] = set()
        """Of all calls of the answer."""

    def take(self, piece: bytes, at: datetime) -> Iterator[AgentEvent]:
        """Yield what the next piece of the output brings; an empty one is the end of the output.

        What follows `done` is not looked at.

        Args:
            piece: As it came, cut anywhere.
            at: When it came.

        Raises:
            AgentError: The program says that it cannot answer, or breaks the protocol.
        """
        events: list[AgentEvent] = []
        failed: AgentError | None = None
        try:
            for line in self._split(piece):
                self._read(line, at, events)
                if self.done:
                    break
        except AgentError as error:
            failed = error
        yield from events
        if failed is not None:
            raise failed

    def unfinished(self) -> Iterator[AgentEvent]:
        """Yield the calls of a message that will not be finished, and the results that there are.

        A tool may have run whose result never came: who reads on must know of it.
        """
        if self._calls:
            yield from self._message()

    def failure(
        self,
        reason: str,
        user_text: str = BROKEN_OFF,
        *,
        kind: AgentFailure = AgentFailure.OTHER,
    ) -> AgentError:
        """Return the error of an answer that is none."""
        return AgentError(f"{self._program}: {reason}", user_text=user_text, failure=kind)

    def _split(self, piece: bytes) -> Iterator[bytes]:
        """Yield the lines that a piece completes; the end of the output completes the last one."""
        self._bytes += len(piece)
        if self._bytes > self._max_bytes:
            raise self.failure(f"its output is longer than {self._max_bytes} bytes", TOO_MUCH)

        first, *others = piece.split(b"\n")
        self._add_to_line(first)
        if not piece and self._rest:
            others = [b""]
        for part in others:
            line, self._rest = bytes(self._rest), bytearray()
            self._meter = ValueMeter(MAX_LINE_VALUES)
            self._lines += 1
            yield line
            self._add_to_line(part)

    def _add_to_line(self, part: bytes) -> None:
        self._rest += part
        if len(self._rest) > self._max_line_bytes:
            raise self.failure(f"a line is longer than {self._max_line_bytes} bytes", TOO_MUCH)

        try:
            self._meter.feed(part)
        except TooManyValuesError:
            fault = f"a line has more than {MAX_LINE_VALUES} values"
            raise self.failure(fault) from None

    def _read(self, line: bytes, at: datetime, events: list[AgentEvent]) -> None:
        match self._parse(line):
            case _Text(text=text):
                self._add_text(clean_text(text), events)
            case _ToolCall() as call:
                self._add_call(call)
            case _ToolResult() as result:
                self._add_result(result)
                if len(self._results) == len(self._calls):
                    events += self._message()
                    self._asked_at = at
            case _Usage() as usage:
                events.append(self._count(usage))
                self._asked_at = at
            case _Error(text=text):
                told = clean_text(text)[:MAX_ERROR_CHARS]
                raise self.failure("it says that it cannot answer", told)
            case _Done():
                events += self._end()

    def _parse(self, line: bytes) -> AnyLine:
        try:
            value = orjson.loads(line.decode())
            if not isinstance(value, dict) or len(value) <= _MAX_KEYS:
                return _LINES.validate_python(value)
            fault = f"has more than {_MAX_KEYS} keys"
        except UnicodeDecodeError:
            fault = "is not UTF-8"
        except orjson.JSONDecodeError:
            fault = "is not JSON"
        except ValidationError as exc:
            fault = _fault(exc)
        # Outside: the exceptions hold what the program said.
        raise self.failure(f"line {self._lines} of its output {fault}")

    def _add_text(self, text: str, events: list[AgentEvent]) -> None:
        if not text:
            return

        self._text += text
        self._spoke = True
        # Those of one piece become one: a program may write every letter alone.
        last = events[-1] if events else None
        if isinstance(last, TextDelta):
            events[-1] = TextDelta(last.text + text)
        else:
            events.append(TextDelta(text))

    def _add_call(self, call: _ToolCall) -> None:
        if call.id in self._ids:
            raise self.failure(f"line {self._lines} of its output calls a tool by a used id")
        if len(self._calls) >= MAX_CALLS:
            raise self.failure(f"a message of its output calls more than {MAX_CALLS} tools")

        try:
            arguments = orjson.dumps(call.arguments).decode()
        except orjson.JSONEncodeError:
            arguments = ""
        if not arguments:  # outside: the exception may hold what the program said
            raise self.failure(f"line {self._lines} of its output is nested too deeply")

        self._ids.add(call.id)
        self._calls[call.id] = ToolCall(call.id, call.name, arguments)

    def _add_result(self, result: _ToolResult) -> None:
        if result.id not in self._calls or result.id in self._results:
            raise self.failure(f"line {self._lines} of its output is a result without a call")

        name, text = self._calls[result.id].name, clean_text(result.text)
        self._results[result.id] = Message(
            Role.TOOL, text, tool_call_id=result.id, tool_name=name, turn_id=self._turn_id
        )

    def _count(self, usage: _Usage) -> ModelCallFinished:
        self._counted = True
        counted = Usage(
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cache_read_tokens=usage.cache_read_tokens or 0,
            cache_write_tokens=usage.cache_write_tokens,
        )
        return ModelCallFinished(
            ModelCall(
                clean_text(usage.model or self._model),
                self._asked_at,
                counted,
                cache_counted=usage.cache_read_tokens is not None,
            )
        )

    def _end(self) -> Iterator[AgentEvent]:
        if self._calls:
            raise self.failure("its answer ended before the result of a tool")
        if not self._spoke:
            raise self.failure("its answer has no text", NO_ANSWER)

        self.done = True
        if not self._counted:
            yield ModelCallFinished(ModelCall(self._model, self._asked_at, usage=None))
        if self._text:
            yield from self._message()

    def _message(self) -> Iterator[AgentEvent]:
        """Finish a message: what was said, the calls, and their results in the calls' order."""
        calls, results = tuple(self._calls.values()), self._results
        message = Message(Role.ASSISTANT, self._text, calls, turn_id=self._turn_id)
        self._text, self._calls, self._results = "", {}, {}
        yield MessageFinished(message)
        for call in calls:
            if call.call_id in results:
                yield MessageFinished(results[call.call_id])


def _fault(error: ValidationError) -> str:
    """Return what is wrong with a line; never its values."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    if first["type"].startswith("union_tag"):
        return f"has no known type; accepted: {_TYPES}"

    place = ".".join(str(part)[:64] for part in first["loc"])
    return f"is wrong at {place}: {first['msg']}" if place else "is not an object"


def _wire_message(message: Message) -> dict[str, Any]:
    wire: dict[str, Any] = {"role": message.role.value, "text": message.text}
    if message.tool_calls:
        wire["tool_calls"] = [
            {"id": call.call_id, "name": call.name, "arguments": _arguments(call.arguments)}
            for call in message.tool_calls
        ]
    if message.role is Role.TOOL:
        wire |= {"tool_call_id": message.tool_call_id, "tool_name": message.tool_name}
    if message.images:
        wire["images"] = [
            {"media_type": image.media_type, "data": image.data} for image in message.images
        ]
    return wire


def _arguments(text: str) -> object:
    """Return the arguments of a call as the object that they are; else the text as it stands."""
    try:
        parsed = orjson.loads(text)
    except orjson.JSONDecodeError:
        return text

    # As written, so that neither numbers nor depth get lost; an end of a line is white space there.
    written = orjson.Fragment(text.replace("\n", " ").replace("\r", " "))
    return written if isinstance(parsed, dict) else text
