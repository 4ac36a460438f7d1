"""What a log line is, and what it never does."""

from __future__ import annotations

import io
import logging
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import orjson
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import override

from gateway.log import LogSettings, configure, get_logger, make_plain, set_level

if TYPE_CHECKING:
    from collections.abc import Iterator

JSON = LogSettings(level="debug", format="json")


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    logging.captureWarnings(capture=False)
    root.handlers = handlers
    root.setLevel(level)
    set_level("info")
    structlog.reset_defaults()


class Terminal(io.BytesIO):
    @override
    def isatty(self) -> bool:
        return True


class Disk(io.BytesIO):
    """A stream that is full until it is told otherwise."""

    full = True

    @override
    def write(self, line: Any, /) -> int:
        if self.full:
            raise OSError(28, "No space left on device")

        return super().write(line)


def fail_with(text: str) -> None:
    secret = "hunter2"
    raise ValueError(text + secret[:0])


def lines_of(stream: io.BytesIO) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in stream.getvalue().splitlines()]


def test_an_event_is_one_json_line_with_time_level_and_name_first() -> None:
    stream = io.BytesIO()
    configure(JSON, stream)
    get_logger().info("turn.finished", duration_ms=12, session_key="agent:main")

    (line,) = lines_of(stream)
    assert list(line) == ["timestamp", "level", "event", "duration_ms", "session_key"]
    assert line["level"] == "info"
    assert line["event"] == "turn.finished"
    assert line["timestamp"].endswith("Z")
    assert datetime.fromisoformat(line["timestamp"]).utcoffset() == timedelta(0)


def test_what_is_bound_to_the_context_is_on_every_line() -> None:
    stream = io.BytesIO()
    configure(JSON, stream)
    with structlog.contextvars.bound_contextvars(turn_id="t1"):
        get_logger().info("turn.started")
    get_logger().info("gateway.ready")

    assert [line.get("turn_id") for line in lines_of(stream)] == ["t1", None]


@pytest.mark.parametrize(
    ("form", "stream", "is_json"),
    [
        pytest.param("auto", io.BytesIO(), True, id="auto-in-a-pipe"),
        pytest.param("auto", Terminal(), False, id="auto-at-a-terminal"),
        pytest.param("json", Terminal(), True, id="json-at-a-terminal"),
        pytest.param("console", io.BytesIO(), False, id="console-in-a-pipe"),
    ],
)
def test_the_format_follows_the_setting_and_then_the_stream(
    form: str, stream: io.BytesIO, *, is_json: bool
) -> None:
    configure(LogSettings.model_validate({"format": form}), stream)
    get_logger().info("gateway.ready", port=1)

    assert stream.getvalue().startswith(b"{") is is_json
    assert b"gateway.ready" in stream.getvalue()


def test_a_new_level_holds_for_loggers_bound_before() -> None:
    stream = io.BytesIO()
    configure(LogSettings(level="warning", format="json"), stream)
    logger = get_logger().bind(part="store")
    logger.info("store.opened")
    set_level("debug")
    logger.debug("store.read")
    set_level("error")
    logger.warning("store.slow")

    assert [line["event"] for line in lines_of(stream)] == ["store.read"]


def test_a_second_configure_moves_loggers_to_the_new_stream() -> None:
    first, second = io.BytesIO(), io.BytesIO()
    configure(JSON, first)
    logger = get_logger()
    logger.info("one.told")
    configure(JSON, second)
    logger.info("two.told")

    assert [line["event"] for line in lines_of(first)] == ["one.told"]
    assert [line["event"] for line in lines_of(second)] == ["two.told"]


class Unprintable:
    @override
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    ("value", "logged"),
    [
        pytest.param(2**70, "an integer of 71 bits", id="integer-beyond-64-bits"),
        pytest.param({1: {2: 3}}, {"1": {"2": 3}}, id="keys-that-are-no-strings"),
        pytest.param("a\ud800b", "a\\ud800b", id="lone-surrogate"),
        pytest.param("a\nb\x1b[31m", "a\\nb\\x1b[31m", id="control"),
        pytest.param("a\u202eb", "a\\u202eb", id="right-to-left-override"),
        pytest.param("x" * 300, "x" * 255 + "…", id="too-long"),
        pytest.param("é" * 256, "é" * 256, id="just-short-enough"),
        pytest.param(Unprintable(), "<Unprintable without a text>", id="no-text"),
        pytest.param(
            datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "2026-01-02T03:04:05Z", id="instant"
        ),
        pytest.param(
            datetime(2026, 1, 2, tzinfo=timezone(timedelta(hours=1))),
            "2026-01-02T00:00:00+01:00",
            id="instant-elsewhere",
        ),
        pytest.param([[[[[["deep"]]]]]], [[[[["['deep']"]]]]], id="nested-too-deeply"),
        pytest.param(list(range(1000)), list(range(64)), id="too-many-items"),
        pytest.param(float("nan"), None, id="nan"),
        pytest.param(b"\xff", "b'\\xff'", id="bytes"),
    ],
)
def test_any_value_is_logged_as_something_plain(value: object, logged: object) -> None:
    stream = io.BytesIO()
    configure(JSON, stream)
    get_logger().info("value.logged", value=value)

    assert lines_of(stream)[0]["value"] == logged


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
    )
)
def test_whatever_is_logged_is_json_on_one_printable_line(value: object) -> None:
    event = make_plain(None, "info", {"event": "value.logged", "value": value})

    assert orjson.dumps(event).decode().isprintable()


def test_a_problem_is_kept_whole() -> None:
    stream = io.BytesIO()
    configure(JSON, stream)
    get_logger().error("config.refused", problem="p" * 1000)

    assert lines_of(stream)[0]["problem"] == "p" * 1000


def test_a_command_is_kept_whole_in_json() -> None:
    stream = io.BytesIO()
    configure(JSON, stream)
    get_logger().info("gateway.try", command="c" * 5000)

    assert lines_of(stream)[0]["command"] == "c" * 5000


def test_a_command_at_a_terminal_stands_alone_on_its_line_as_it_is() -> None:
    stream = Terminal()
    configure(LogSettings(), stream)
    command = """curl -H 'a: b' -d '{"c": "d"}' """ + "/long" * 100
    get_logger().info("gateway.try", command=command)
    get_logger().info("gateway.ready")

    first, second, third = stream.getvalue().decode().splitlines()
    assert "gateway.try" in first
    assert second == command
    assert "gateway.ready" in third


def test_a_command_steers_no_terminal() -> None:
    stream = Terminal()
    configure(LogSettings(), stream)
    get_logger().info("gateway.try", command="curl\x1b]0;title\x07")

    assert stream.getvalue().decode().splitlines()[1] == "curl\\x1b]0;title\\x07"


def test_an_exception_is_logged_without_the_values_of_variables() -> None:
    stream = io.BytesIO()
    configure(JSON, stream)
    try:
        fail_with("broken\x1b[31m")
    except ValueError:
        get_logger().exception("turn.failed")

    (line,) = lines_of(stream)
    assert line["exception"][0]["exc_type"] == "ValueError"
    assert line["exception"][0]["exc_value"] == "broken\\x1b[31m"
    assert b"hunter2" not in stream.getvalue()


def test_a_traceback_at_a_terminal_keeps_its_lines_and_no_control_characters() -> None:
    stream = Terminal()
    configure(LogSettings(), stream)
    try:
        fail_with("broken\x1b]0;title\x07")
    except ValueError:
        get_logger().exception("turn.failed")

    text = stream.getvalue().decode()
    assert "\nTraceback (most recent call last)" in text
    assert "broken\\x1b]0;title\\x07" in text


def test_a_full_disk_ends_nobody_and_is_told_of_afterwards() -> None:
    disk = Disk()
    configure(JSON, disk)
    get_logger().info("one.lost")
    get_logger().info("two.lost")
    disk.full = False
    get_logger().info("three.told")

    assert [(line["event"], line.get("failures")) for line in lines_of(disk)] == [
        ("log.writes_failed", 2),
        ("three.told", None),
    ]


def test_a_closed_stream_ends_nobody() -> None:
    stream = io.BytesIO()
    configure(JSON, stream)
    stream.close()
    get_logger().info("one.lost")

    assert stream.closed


def test_libraries_are_heard_from_warning_on_with_their_name() -> None:
    stream = io.BytesIO()
    configure(JSON, stream)
    logging.getLogger("uvicorn.access").info("GET /secret")
    logging.getLogger("httpx2").info("POST https://example.org")
    logging.getLogger("openai").debug("request body")
    logging.getLogger("some.library").warning("slow by %d ms", 5)

    (line,) = lines_of(stream)
    assert line["event"] == "library.logged"
    assert line["logger"] == "some.library"
    assert line["message"] == "slow by 5 ms"
    assert line["level"] == "warning"


def test_a_library_that_lowers_its_own_level_is_still_not_heard_below_warning() -> None:
    stream = io.BytesIO()
    configure(JSON, stream)
    library = logging.getLogger("talkative")
    library.setLevel(logging.DEBUG)
    library.debug("what the user wrote")

    assert stream.getvalue() == b""


def test_a_library_with_wrong_arguments_ends_nobody() -> None:
    stream = io.BytesIO()
    configure(JSON, stream)
    arguments = ("x",)
    logging.getLogger("wrong").error("%d %d", *arguments)

    assert lines_of(stream)[0]["message"] == "%d %d"


def test_an_error_of_a_library_comes_with_its_traceback() -> None:
    stream = io.BytesIO()
    configure(JSON, stream)
    try:
        fail_with("x")
    except ValueError:
        logging.getLogger("library").exception("failed")

    assert lines_of(stream)[0]["exception"][0]["exc_type"] == "ValueError"
