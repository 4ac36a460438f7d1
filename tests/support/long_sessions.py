"""A long session of a real daemon, as its user, a dashboard and the provider see it.

The model is that of `tests.support.acting`, the tools those of `tests.support.mcp_server`.
"""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import orjson

from tests.support import acting
from tests.support.daemon import Daemon
from tests.support.prompt_cache import CacheRules
from tests.support.state import key_of
from tests.support.upstream import Upstream, UpstreamRequest
from tests.tools.running import REAL, ROOT, http_server

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Sequence
    from pathlib import Path

    from tests.support.upstream import WireName

Said = tuple[str, str, list[tuple[str, Any]]]
"""Role, text and calls of a message, each with its name and its arguments."""

KEY: Final = str(key_of())
WINDOW_TOKENS: Final = 20_000
SPARE_WINDOW_TOKENS: Final = 48_000
RESERVE_TOKENS: Final = 4_000
SUMMARY_CHARS: Final = 4_000
ANTHROPIC: Final = CacheRules(overhead_tokens=350)
OPENAI: Final = CacheRules(overhead_tokens=2_000, write_cost=1.0)
"""The two providers count differently, so that what one told says little of the other."""
STARTED: Final = f'command = {REAL}\ncwd = "{ROOT}"\nstart_timeout_s = 60'
"""The table of a server of tools that the daemon starts."""
OTHER: Final[dict[str, WireName]] = {"anthropic": "openai", "openai": "anthropic"}


def agent(
    fake: Upstream,
    name: str,
    wire: str,
    *,
    window_tokens: int = WINDOW_TOKENS,
    fallback: str = "",
    allow: Sequence[str] = acting.NAMES,
    ask: Sequence[str] = (),
) -> str:
    """Return the table of an agent at the pretended provider."""
    path = "/v1" if wire == "openai" else ""
    return f"""
[agents.{name}]
kind = "{wire}"
model = "pretended-{name}"
base_url = "{fake.url}{path}"
system_prompt = "You are of use."
context_window_tokens = {window_tokens}
reserve_tokens = {RESERVE_TOKENS}
max_retries = 0
fallback = {[fallback] if fallback else []}

[agents.{name}.tools]
allow = {list(allow)}
ask = {list(ask)}
"""


def config(fake: Upstream, wire: str, server: str, *, spare: bool = False) -> str:
    """Return a configuration in which old turns have to leave again and again.

    Args:
        fake: The provider.
        wire: What `main` speaks.
        server: The table of the server of tools, see `server_of_tools`.
        spare: Whether another agent stands in for it, on the other wire, with a larger window.
    """
    main = agent(fake, "main", wire, fallback="spare" if spare else "")
    other = agent(fake, "spare", OTHER[wire], window_tokens=SPARE_WINDOW_TOKENS) if spare else ""
    return f"""{main}{other}
[tools.servers.{acting.SERVER}]
{server}

[context.compaction]
summary_chars = {SUMMARY_CHARS}

[context.pruning]
min_prunable_tool_chars = 8000
soft_trim = {{ max_chars = 2000, head_chars = 700, tail_chars = 700 }}

[[context.cache]]
ttl_s = 1e6
"""


@contextmanager
def server_of_tools(wire: str) -> Generator[str]:
    """Return the table of a server that the daemon starts; for `openai` of one at an address."""
    if wire == "anthropic":
        yield STARTED
        return

    with http_server() as http:
        yield f'url = "http://127.0.0.1:{http.port}/mcp"'


@dataclass(slots=True)
class LongSession:
    """What was told of one session, over all lives of its daemon."""

    daemon: Daemon
    fake: Upstream
    told: list[tuple[int, int]] = field(default_factory=list)
    """Sizes told as estimates, each with what the provider counted of the same request."""
    seen: list[tuple[int, int]] = field(default_factory=list)
    """Sizes told as counted while a request waited, each with the count of the one before it."""
    _step: int = 0
    _last: UpstreamRequest | None = None

    async def look(self, request: UpstreamRequest) -> None:
        """Note what is told while a request waits for its answer."""
        if acting.is_for_summary(request.json):
            return

        tokens, source = await self._note(request)
        if self._last is not None and source == "usage":
            self.seen.append((tokens, self._last.tokens))
        self._last = request

    async def number(self) -> tuple[int, str]:
        """Return the size of the context as told after a turn, and how it was found."""
        return await self._note(self.last_request())

    def last_request(self) -> UpstreamRequest:
        """Return the last request that asked for an answer to the user."""
        assert self._last is not None
        return self._last

    async def _note(self, request: UpstreamRequest) -> tuple[int, str]:
        entry = await self.daemon.get(f"/v1/sessions/{KEY}")
        # An older one was told of an older request.
        if entry["context_step"] > self._step and entry["context_source"] == "estimate":
            self.told.append((entry["context_tokens"], request.tokens))
        self._step = entry["context_step"]
        return entry["context_tokens"], entry["context_source"]

    def worst(self) -> float:
        """Return by what share the worst size was off that was told."""
        return max(abs(told - counted) / counted for told, counted in self.told)


async def transcript(daemon: Daemon) -> list[dict[str, Any]]:
    """Return everything that was said, the gateway's own notices aside."""
    said: list[dict[str, Any]] = []
    after = 0
    while True:
        page = await daemon.get(f"/v1/sessions/{KEY}/transcript?limit=1000&after={after}")
        said += page["messages"]
        if len(page["messages"]) < 1_000:
            return [one for one in said if one["role"] != "notice"]
        after = said[-1]["position"]


def expected(turn: int) -> list[Said]:
    """Return what a transcript holds of a turn."""
    said: list[Said] = [("user", acting.said_by_user(turn), [])]
    for step, uses in enumerate(acting.steps_of(turn)):
        calls = [(use.name, use.arguments) for use in uses]
        said.append(("assistant", acting.words_beside(turn, step), calls))
        said += [("tool", use.result, []) for use in uses]
    return [*said, ("assistant", acting.answer_of(turn), [])]


def told(message: dict[str, Any]) -> Said:
    """Return a message of a transcript in the form of `expected`."""
    calls = [(call["name"], orjson.loads(call["arguments"])) for call in message["tool_calls"]]
    return message["role"], message["text"], calls


@dataclass(frozen=True, slots=True)
class KeptSummary:
    """A summary as it is stored."""

    through_turn: str
    turns: int
    text: str
    tokens_before: int
    tokens_after: int

    @property
    def last_turn(self) -> int:
        """The number of the last turn that it names."""
        return last_summarised([self.text])


def last_summarised(texts: Iterable[str]) -> int:
    """Return the number of the last turn that the first summary among texts names; 0: none."""
    found = (re.search(rf"{acting.SUMMARY} 1 to (\d+)", text) for text in texts)
    return next((int(match[1]) for match in found if match), 0)


def summaries(state_dir: Path) -> list[KeptSummary]:
    """Return the summaries in a database, oldest first."""
    query = "SELECT through_turn, turns, text, tokens_before, tokens_after FROM summaries"
    return [KeptSummary(*row) for row in _rows(state_dir, query)]


def projections(state_dir: Path) -> list[tuple[str, str]]:
    """Return the turn and the mode of each projection in a database."""
    rows = _rows(state_dir, "SELECT item, mode FROM projections")
    return [(item.partition("/")[0], mode) for item, mode in rows]


def _rows(state_dir: Path, query: str) -> list[Any]:
    with closing(sqlite3.connect(f"file:{state_dir}/gateway.db?mode=ro", uri=True)) as database:
        return database.execute(f"{query} ORDER BY position").fetchall()
