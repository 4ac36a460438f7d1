"""Laws of what is taken over from a server, whatever it says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
import pytest
from structlog.testing import capture_logs

from gateway.tools.client import (
    MAX_DESCRIPTION_CHARS,
    MAX_LISTING_BYTES,
    MAX_PAGES,
    MAX_SCHEMA_BYTES,
    MAX_TOOLS,
)
from gateway.tools.settings import McpServerSettings
from tests.tools.odd_http import Answer, Asked, http, odd_http, rpc, usual
from tests.tools.running import running, until

if TYPE_CHECKING:
    from collections.abc import Callable

OBJECT = {"type": "object"}
NEWER = "2026-07-28"
FILLER = "x" * 60_000


def listing(*pages: list[dict[str, Any]], last: bool = True) -> Callable[[Asked], Answer]:
    """Tell these pages of tools; not `last`: the last page comes again and again."""

    def answer(asked: Asked) -> Answer:
        if asked.rpc != "tools/list":
            return usual(asked)

        number = int((asked.json.get("params") or {}).get("cursor", 0))
        more = number + 1 < len(pages) or not last
        page: dict[str, Any] = {"tools": pages[min(number, len(pages) - 1)]}
        return rpc(asked, page | ({"nextCursor": str(number + 1)} if more else {}))

    return answer


def newer(tools: dict[str, Any], call: object) -> Callable[[Asked], Answer]:
    """Answer as a server of the newer kind."""
    cached = {"ttlMs": 0, "cacheScope": "private", "resultType": "complete"}

    def answer(asked: Asked) -> Answer:
        match asked.rpc:
            case "server/discover":
                found = {"supportedVersions": [NEWER], "capabilities": {"tools": tools}}
                return rpc(asked, found | cached)
            case "tools/list":
                return rpc(asked, {"tools": [{"name": "do", "inputSchema": OBJECT}]} | cached)
            case "tools/call":
                return rpc(asked, call)
            case _:
                return http(b"", "Content-Type: text/event-stream")

    return answer


async def offered(answer: Callable[[Asked], Answer]) -> tuple[list[str], list[str], int]:
    """Return the names that are offered, those told to be left out, and how often it was asked."""
    async with odd_http() as odd:
        odd.answer = answer
        with capture_logs() as logs:
            async with running(McpServerSettings(url=odd.url)) as server:
                names = [spec.name for spec in server.box.specs()]
        left_out = [line["tools"] for line in logs if line["event"] == "tools.left_out"]
        asked = sum(one.rpc == "tools/list" for one in odd.asked)
    return names, left_out[0] if left_out else [], asked


def named(*names: str, **more: object) -> list[dict[str, Any]]:
    return [{"name": name, "inputSchema": OBJECT, **more} for name in names]


async def test_all_pages_are_read() -> None:
    names, _, asked = await offered(listing(named("a"), named("c"), named("b")))

    assert names == ["odd_a", "odd_b", "odd_c"]
    assert asked == 3


async def test_a_listing_without_end_is_read_in_part() -> None:
    _, _, asked = await offered(listing(named("a"), last=False))
    assert asked == MAX_PAGES

    names, _, asked = await offered(listing(named(*(f"t{n}" for n in range(600))), last=False))
    assert (len(names), asked) == (600, MAX_TOOLS // 600 + 1)


async def test_a_page_of_very_many_tools_is_read_in_part() -> None:
    names, _, _ = await offered(listing(named(*(f"t{n}" for n in range(MAX_TOOLS + 500)))))

    assert len(names) == MAX_TOOLS


async def test_tools_that_cannot_be_offered_are_left_out_and_told() -> None:
    huge = {"type": "object", "description": "x" * MAX_SCHEMA_BYTES}
    number = {"type": "object", "maximum": 2**70}
    tools = [
        *named("fine"),
        {"name": "huge", "inputSchema": huge},
        {"name": "", "inputSchema": OBJECT},
    ]
    text = orjson.dumps({"tools": tools}).decode().removesuffix("]}")
    text += f', {{"name": "number", "inputSchema": {str(number).replace(chr(39), chr(34))}}}]}}'

    def answer(asked: Asked) -> Answer:
        if asked.rpc != "tools/list":
            return usual(asked)

        body = f'{{"jsonrpc": "2.0", "id": {asked.json["id"]}, "result": {text}}}'
        return http(body.encode(), "Content-Type: application/json")

    names, left_out, _ = await offered(answer)

    assert names == ["odd_fine"]
    assert left_out == ["huge", "", "number"]


async def test_schemas_that_are_too_large_together_are_left_out() -> None:
    count = MAX_LISTING_BYTES // 60_000 + 10
    tools = [
        {"name": f"t{number}", "inputSchema": {**OBJECT, "description": FILLER}}
        for number in range(count)
    ]
    names, left_out, _ = await offered(listing(tools))

    assert 0 < len(names) < count
    assert len(names) + len(left_out) == count
    assert len(names) * 60_000 < MAX_LISTING_BYTES


async def test_a_server_without_tools_is_not_asked_for_them() -> None:
    def answer(asked: Asked) -> Answer:
        if asked.rpc != "initialize":
            return usual(asked)

        version = asked.json["params"]["protocolVersion"]
        info = {"name": "odd", "version": "1"}
        result = {"protocolVersion": version, "serverInfo": info, "capabilities": {}}
        return rpc(asked, result)

    assert await offered(answer) == ([], [], 0)


async def test_what_is_told_of_a_tool_is_made_fit_for_models() -> None:
    tools = [
        *named("a", description="d" * 10_000),
        *named("b", title="its \0title"),
        {"name": "c", "inputSchema": {**OBJECT, "required": ["x"]}},
    ]
    async with odd_http() as odd:
        odd.answer = listing(tools)
        async with running(McpServerSettings(url=odd.url)) as server:
            a, b, c = server.box.specs()

    assert len(a.description) == MAX_DESCRIPTION_CHARS
    assert b.description == "its title"
    assert c.description == ""
    assert b.schema == {"type": "object", "properties": {}}
    assert c.schema == {"type": "object", "properties": {}, "required": ["x"]}


async def test_the_servers_schema_of_a_result_is_not_run_against_it() -> None:
    trap = {"type": "object", "properties": {"a": {"pattern": "^(x+x+)+y$"}}}
    tools = [{"name": "do", "inputSchema": OBJECT, "outputSchema": trap}]

    def answer(asked: Asked) -> Answer:
        if asked.rpc == "tools/call":
            return rpc(asked, {"content": [], "structuredContent": {"a": "x" * 60}})

        return listing(tools)(asked)

    async with odd_http() as odd:
        odd.answer = answer
        async with running(McpServerSettings(url=odd.url)) as server:
            assert await server.call("do") == f'{{"a":"{"x" * 60}"}}'


@pytest.mark.parametrize(
    "result",
    [
        {"resultType": "input_required", "requestState": "s"},
        {
            "resultType": "input_required",
            "inputRequests": {
                "q": {
                    "method": "elicitation/create",
                    "params": {"message": "?", "requestedSchema": {**OBJECT, "properties": {}}},
                }
            },
        },
    ],
    ids=["try-again", "question"],
)
async def test_a_tool_that_wants_more_input_is_told_off(result: dict[str, Any]) -> None:
    async with odd_http() as odd:
        odd.answer = newer({}, result)
        async with running(McpServerSettings(url=odd.url)) as server:
            text = await server.call("do")
        calls = [asked for asked in odd.asked if asked.rpc == "tools/call"]

    assert text == "The tool asks for more input, which cannot be given here."
    assert len(calls) == 1
    assert calls[0].headers["mcp-protocol-version"] == NEWER


async def test_no_capability_of_a_client_is_offered() -> None:
    async with odd_http() as odd:
        odd.answer = newer({}, {"content": [], "resultType": "complete"})
        async with running(McpServerSettings(url=odd.url)) as server:
            await server.call("do")
        called = next(asked for asked in odd.asked if asked.rpc == "tools/call")

    assert called.json["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"] == {}


async def test_a_server_that_tells_no_more_of_changes_is_looked_at_and_kept() -> None:
    async with odd_http() as odd:
        odd.answer = newer({"listChanged": True}, {"content": [], "resultType": "complete"})
        async with running(McpServerSettings(url=odd.url)) as server:
            await until(lambda: sum(asked.rpc == "tools/list" for asked in odd.asked) >= 2)
            assert await server.call("do") == "[The tool returned nothing.]"
            assert server.told().restarts == 0
        listened = [asked for asked in odd.asked if asked.rpc == "subscriptions/listen"]

    # It is asked again after a pause only.
    assert len(listened) == 1
