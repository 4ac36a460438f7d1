"""Structured logs: one line an event, to standard output.

JSON unless a person watches at a terminal. Nothing that is logged can kill who logs it: values are
made plain, control characters escaped, strings cut, and a stream that refuses is waited out. Lines
of libraries come in from WARNING on, for below it they may quote what users write.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import threading
from collections.abc import Mapping
from datetime import date, datetime, time
from functools import lru_cache
from typing import TYPE_CHECKING, BinaryIO, Final, Literal, TypeAlias, cast

import orjson
import structlog
from structlog.tracebacks import ExceptionDictTransformer
from typing_extensions import override

from gateway.settings import Settings

if TYPE_CHECKING:
    from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

MAX_FIELD_CHARS: Final = 256
"""A longer string is cut; one line of the log must not become a way to fill the disk."""
MAX_WHOLE_CHARS: Final = 8_192
"""The same for what the operator needs whole: `problem`, a sentence, and `command`, which may name
the longest path twice."""
_WHOLE: Final = frozenset({"problem", "command"})
MAX_ITEMS: Final = 64
"""How much of a list or a table is kept."""
MAX_DEPTH: Final = 5
"""How deep lists and tables go; an exception with its frames needs four."""
MAX_FRAMES: Final = 20

_LEVELS: Final = logging.getLevelNamesMapping()
_PLAIN: Final = frozenset({bool, float, type(None)})
_SMALL: Final = 2**53
_ORJSON_INTS: Final = range(-(2**63), 2**64)

Level: TypeAlias = Literal["debug", "info", "warning", "error"]


class LogSettings(Settings):
    """What is logged, and how it looks."""

    level: Level = "info"
    """The least level that is logged: `debug`, `info`, `warning` or `error`."""
    format: Literal["auto", "json", "console"] = "auto"
    """`json`: one JSON object a line; `console`: for people; `auto`: `console` at a terminal, else
    `json`."""


class _Threshold:
    """The level in force, one for all loggers, those bound long ago too."""

    def __init__(self) -> None:
        self.number = logging.INFO

    def __call__(self, _logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        """Drop what is below the level, before any work is done for it."""
        if _LEVELS.get(method.upper(), logging.ERROR) < self.number:
            raise structlog.DropEvent

        return event


_threshold: Final = _Threshold()


def get_logger() -> FilteringBoundLogger:
    """Return a logger that follows every later `configure` and `set_level`."""
    return cast("FilteringBoundLogger", structlog.get_logger())


def set_level(level: Level) -> None:
    """Log from this level on, at once and everywhere."""
    _threshold.number = _LEVELS[level.upper()]


def configure(settings: LogSettings, stream: BinaryIO) -> None:
    """Send every later event of the gateway and of libraries to the stream."""
    console = settings.format == "console" or (settings.format == "auto" and stream.isatty())
    set_level(settings.level)
    structlog.configure(
        processors=[
            _threshold,
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="timestamp"),
            *(_console() if console else _json()),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.NOTSET),
        logger_factory=structlog.BytesLoggerFactory(file=cast("BinaryIO", _Patient(stream))),
        # Off: a cached logger would keep the old stream after a second call.
        cache_logger_on_first_use=False,
    )
    _bridge_libraries()


def _json() -> list[Processor]:
    frames = ExceptionDictTransformer(show_locals=False, max_frames=MAX_FRAMES)
    return [structlog.processors.ExceptionRenderer(frames), make_plain, _to_json_line]


def _console() -> list[Processor]:
    renderer = structlog.dev.ConsoleRenderer(
        timestamp_key="timestamp", exception_formatter=structlog.dev.plain_traceback
    )
    return [structlog.processors.format_exc_info, make_plain, _to_console_line(renderer)]


def _to_json_line(_logger: WrappedLogger, _method: str, event: EventDict) -> bytes:
    head = {key: event.pop(key, None) for key in ("timestamp", "level", "event")}
    return orjson.dumps(head | dict(event))


def _to_console_line(renderer: structlog.dev.ConsoleRenderer) -> Processor:
    def render(logger: WrappedLogger, method: str, event: EventDict) -> bytes:
        # On a line of its own and as it is: it is there to be pasted.
        command = event.pop("command", None)
        line = renderer(logger, method, event)
        return (line if command is None else f"{line}\n{command}").encode()

    return render


def make_plain(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Turn every value into what JSON and a terminal can take, and cut what is too long."""
    plain: dict[str, object] = {}
    for key, value in event.items():
        kind = type(value)
        # Nearly every value of a line; the others take the long way.
        simple = (
            kind in _PLAIN
            or (kind is int and -_SMALL < value < _SMALL)
            or (kind is str and len(value) <= MAX_FIELD_CHARS and value.isprintable())
        )
        plain[_key(key)] = value if simple else _plain(value, MAX_DEPTH)
    for key in _WHOLE & event.keys():
        plain[key] = _text(_string(event[key]), MAX_WHOLE_CHARS)
    exception = event.get("exception")
    if isinstance(exception, str):  # a traceback for the console, line by line
        plain["exception"] = "\n".join(
            _text(line, MAX_FIELD_CHARS) for line in exception.splitlines()
        )
    return plain


@lru_cache(maxsize=1024)
def _key(key: str) -> str:
    return _text(key, MAX_FIELD_CHARS)


def _plain(value: object, depth: int) -> object:
    if type(value) in _PLAIN:
        return value
    if isinstance(value, int):
        number = int(value)  # a range searches itself number by number for a subclass of int
        return number if number in _ORJSON_INTS else f"an integer of {number.bit_length()} bits"
    if depth and isinstance(value, Mapping):
        return {
            _text(_string(key), MAX_FIELD_CHARS): _plain(item, depth - 1)
            for key, item in list(value.items())[:MAX_ITEMS]
        }
    if depth and isinstance(value, list | tuple | set | frozenset):
        return [_plain(item, depth - 1) for item in list(value)[:MAX_ITEMS]]

    return _text(_string(value), MAX_FIELD_CHARS)


def _string(value: object) -> str:
    if isinstance(value, datetime | date | time):
        return value.isoformat().replace("+00:00", "Z")

    try:
        return str(value)
    except Exception:  # noqa: BLE001 - a stranger's __str__ may raise anything; a log line must not
        return f"<{type(value).__name__} without a text>"


def _text(text: str, most: int) -> str:
    if len(text) > most:
        text = f"{text[: most - 1]}…"
    if text.isprintable():
        return text

    # Escaped: control characters, bidirectional and zero-width ones, line separators, surrogates.
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


class _Patient:
    """A stream that never raises: a full disk or a closed pipe must not end turns.

    Once it takes lines again, the first one tells how many had failed. On an event loop, the lines
    of one round go out together: a system call each would cost a turn a tenth of its time.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._lines: list[bytes] = []
        self._failures = 0
        self._lock = threading.Lock()
        """Guards all of the above."""
        atexit.register(self._write_lines)

    def write(self, line: bytes) -> int:
        """Take a line, whatever the stream says."""
        with self._lock:
            self._lines.append(line)
            first = len(self._lines) == 1
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self._write_lines()
        else:
            if first:
                loop.call_soon(self._write_lines)
        return len(line)

    def flush(self) -> None:
        """Do nothing: lines go out by themselves."""

    def _write_lines(self) -> None:
        with self._lock:
            lines, self._lines = self._lines, []
            if not lines:
                return

            notice = {"event": "log.writes_failed", "failures": self._failures}
            head = orjson.dumps(notice) + b"\n" if self._failures else b""
            try:
                self._stream.write(head + b"".join(lines))
                self._stream.flush()
            except (OSError, ValueError):  # ValueError: the stream was closed
                self._failures += len(lines)
            else:
                self._failures = 0


class _Bridge(logging.Handler):
    """Hands the records of libraries to structlog."""

    @override
    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 - a library's wrong arguments must not end who called it
            message = str(record.msg)
        logger = get_logger().bind(logger=record.name, message=message)
        if record.levelno >= logging.ERROR:
            logger.error("library.logged", exc_info=record.exc_info or None)
        else:
            logger.warning("library.logged", exc_info=record.exc_info or None)


def _bridge_libraries() -> None:
    root = logging.getLogger()
    root.handlers = [_Bridge(level=logging.WARNING)]
    root.setLevel(logging.WARNING)
    for name in ("uvicorn", "uvicorn.access", "uvicorn.error", "httpx2"):
        library = logging.getLogger(name)
        library.handlers = []
        library.propagate = True
        library.setLevel(logging.WARNING)
    logging.captureWarnings(capture=True)
