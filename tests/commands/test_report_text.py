"""Laws of what a session is told of a process that ended."""

from __future__ import annotations

import pytest

from gateway.commands.backgrounds import report_text
from gateway.processes.records import EndReason, ProcessEnd, ProcessRecord
from tests.processes.running import caller

ASKED = caller()


def told(output: str, output_bytes: int, *, whole: bool) -> list[str]:
    record = ProcessRecord(
        process_id="p-0123456789",
        session_key=ASKED.session_key,
        session_id=ASKED.session_id,
        agent=ASKED.agent,
        source=ASKED.source,
        command=("make", "all of it"),
        cwd="/",
        created_at="2026-01-01T00:00:00Z",
    )
    end = ProcessEnd(
        "2026-01-01T00:00:01Z",
        EndReason.EXITED,
        exit_status=0,
        output_bytes=output_bytes,
        output=output,
        output_whole=whole,
    )
    head, how, *lines = report_text(record, end).split("\n")
    assert head == "[Background process p-0123456789: make 'all of it']"
    assert how == "It ended with status 0."
    return lines


@pytest.mark.parametrize(
    ("output", "output_bytes", "whole", "lines"),
    [
        pytest.param("", 0, True, ["It wrote nothing."], id="nothing"),
        pytest.param("ok\n", 12, True, ["Its output:", "ok"], id="colours-taken-out"),
        pytest.param("b\n", 4000, False, ["The end of its 4,000 bytes:", "b"], id="end"),
        pytest.param("", 3, True, ["It wrote nothing that can be shown."], id="colours-alone"),
        pytest.param("\n", 1, True, ["It wrote nothing that can be shown."], id="blank"),
        pytest.param(
            "", 900, False, ["Of its output, 900 bytes, nothing could be kept."], id="full-disk"
        ),
    ],
)
def test_what_is_told_of_output_is_true(
    output: str, output_bytes: int, *, whole: bool, lines: list[str]
) -> None:
    assert told(output, output_bytes, whole=whole) == lines
