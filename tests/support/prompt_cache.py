"""The prompt cache of a pretended provider: what a request reads, what it writes, what that costs.

One rule counts tokens, so that all numbers agree: a text costs a token for each 4 characters begun,
or what another `Counting` says, an image 1,600, a message 4 more, and each request
`overhead_tokens` more, which stand before everything else. Time is the clock's monotonic one, taken
when a request begins; an entry is gone once its lifetime has passed, to the second, and lives anew
when it is read.

Knows no wire: `tests.support.wires`, above, makes a `Prompt` of a request.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from gateway.clock import Clock

if TYPE_CHECKING:
    from collections.abc import Iterator

CHARS_PER_TOKEN: Final = 4
IMAGE_TOKENS: Final = 1_600
STEP_TOKENS: Final = 128
"""What the automatic cache rounds down to."""
LOOK_BACK_BLOCKS: Final = 20
"""How many blocks the marked cache looks at, a mark's own among them."""


@dataclass(frozen=True, slots=True)
class Counting:
    """How a provider counts a text."""

    chars: int = CHARS_PER_TOKEN
    """So many characters ..."""
    tokens: int = 1
    """... are so many tokens, begun ones whole."""
    wide: bool = False
    """Whether each character beyond ASCII is a token by itself."""
    message_tokens: int = 4
    """What a message costs beside its text."""

    def of(self, text: str) -> int:
        """Return what a text costs."""
        return self.of_chars(*self.chars_of(text))

    def of_chars(self, plain: int, wide: int) -> int:
        """Return the same of so many characters that are counted together, and by themselves."""
        return -(-plain * self.tokens // self.chars) + wide

    def chars_of(self, text: str) -> tuple[int, int]:
        """Return how many characters of a text are counted together, and by themselves."""
        plain = len(text.encode("ascii", "ignore")) if self.wide else len(text)
        return plain, len(text) - plain


OTHER_COUNTING: Final = Counting(33, 10, wide=True, message_tokens=20)
"""Nothing like the gateway's own estimate: 3.3 characters a token, but for those beyond ASCII."""


@dataclass(frozen=True, slots=True)
class CacheRules:
    """What a provider's cache does and what it charges, in prices of an uncached input token."""

    least_tokens: int = 1_024
    """Shorter prefixes are not kept."""
    ttl_s: float = 300.0
    """How long an entry lives, in seconds: all of the automatic cache, and `5m` marks."""
    ttl_1h_s: float = 3_600.0
    """How long an entry of a `1h` mark lives, in seconds."""
    read_cost: float = 0.1
    write_cost: float = 1.25
    write_1h_cost: float = 2.0
    overhead_tokens: int = 0
    """What each request costs beside its messages."""
    counting: Counting = Counting()

    def tokens(self, block: PromptBlock) -> int:
        """Return what a piece of a prompt costs."""
        text_tokens, begins = self.counting.of(block.text), block.begins_message
        image_tokens = IMAGE_TOKENS * len(block.images)
        return text_tokens + image_tokens + self.counting.message_tokens * begins


@dataclass(frozen=True, slots=True)
class PromptBlock:
    """A piece of a prompt: what a mark can stand on."""

    head: bytes
    """What it is, who says it, and which call it belongs to; counts nothing."""
    text: str = ""
    images: tuple[str, ...] = ()
    begins_message: bool = False
    mark: str = ""
    """`5m` or `1h` where a mark stands on it."""

    @property
    def data(self) -> bytes:
        """Everything in it but its mark."""
        return b"\0".join(
            [self.place, self.text.encode(), *(data.encode() for data in self.images)]
        )

    @property
    def place(self) -> bytes:
        """What it is, and whether a message begins with it."""
        return (b"^" if self.begins_message else b"-") + self.head


@dataclass(frozen=True, slots=True)
class Prompt:
    """All of a request that a model reads."""

    place: str
    """What shares a cache: the wire, the model, and whatever else tells caches apart."""
    blocks: tuple[PromptBlock, ...]


@dataclass(frozen=True, slots=True)
class Charge:
    """What a request counted: `uncached + read + written == tokens`."""

    tokens: int = 0
    read: int = 0
    written: int = 0
    """All that was written, `written_1h` among it."""
    written_1h: int = 0
    cost: float = 0.0
    """In prices of an uncached input token."""

    @property
    def uncached(self) -> int:
        """What was neither read from the cache nor written to it."""
        return self.tokens - self.read - self.written


@dataclass(slots=True)
class _Entry:
    touched_at_s: float
    lifetime_s: float


@dataclass(slots=True)
class PromptCache:
    """What a provider keeps of prompts."""

    clock: Clock
    rules: CacheRules
    _entries: dict[bytes, _Entry] = field(default_factory=dict)

    def count(self, prompt: Prompt) -> int:
        """Return the tokens of a request, serving nothing."""
        return self.rules.overhead_tokens + sum(map(self.rules.tokens, prompt.blocks))

    def charge(self, prompt: Prompt, *, marked: bool) -> Charge:
        """Serve a request, of a cache that marks rule or of the automatic one."""
        return self._charge_marked(prompt) if marked else self._charge_automatic(prompt)

    def _charge_marked(self, prompt: Prompt) -> Charge:
        """Serve a request whose marks say what is kept.

        Each mark finds the longest prefix kept that ends at it or at one of the 19 blocks before
        it. All that a mark stands on is kept from now on, if it is long enough.
        """
        ends = list(_block_ends(prompt, self.rules))
        marks = [place for place, block in enumerate(prompt.blocks) if block.mark]
        found = max((self._find(ends, mark) for mark in marks), default=-1)
        read = ends[found][0] if found >= 0 else 0
        written = written_1h = 0
        for mark in marks:
            tokens, digest = ends[mark]
            if tokens < self.rules.least_tokens:
                continue
            for_1h = prompt.blocks[mark].mark == "1h"
            more = max(0, tokens - read - written)
            written, written_1h = written + more, written_1h + more * for_1h
            if self._live(digest) is None:
                lifetime_s = self.rules.ttl_1h_s if for_1h else self.rules.ttl_s
                self._entries[digest] = _Entry(self.clock.monotonic(), lifetime_s)
        return self._charge(self.count(prompt), read, written, written_1h)

    def _charge_automatic(self, prompt: Prompt) -> Charge:
        """Serve a request of which every prefix in steps of 128 tokens is read and kept."""
        steps = list(_steps(prompt, self.rules))
        read = max((tokens for tokens, digest in steps if self._live(digest)), default=0)
        for _, digest in steps:
            self._entries[digest] = _Entry(self.clock.monotonic(), self.rules.ttl_s)
        kept = steps[-1][0] if steps else 0
        return self._charge(self.count(prompt), read, kept - read, 0)

    def _find(self, ends: list[tuple[int, bytes]], mark: int) -> int:
        for place in range(mark, max(-1, mark - LOOK_BACK_BLOCKS), -1):
            entry = self._live(ends[place][1])
            if entry is not None:
                entry.touched_at_s = self.clock.monotonic()
                return place
        return -1

    def _live(self, digest: bytes) -> _Entry | None:
        entry = self._entries.get(digest)
        if entry is None or self.clock.monotonic() - entry.touched_at_s >= entry.lifetime_s:
            return None

        return entry

    def _charge(self, tokens: int, read: int, written: int, written_1h: int) -> Charge:
        rules = self.rules
        cost = (
            (tokens - read - written)
            + read * rules.read_cost
            + (written - written_1h) * rules.write_cost
            + written_1h * rules.write_1h_cost
        )
        return Charge(tokens, read, written, written_1h, cost)


def _block_ends(prompt: Prompt, rules: CacheRules) -> Iterator[tuple[int, bytes]]:
    """Yield for each block how many tokens end with it, and what they are."""
    tokens, digest = rules.overhead_tokens, prompt.place.encode()
    for block in prompt.blocks:
        tokens += rules.tokens(block)
        digest = hashlib.blake2b(digest + b"\0" + block.data).digest()
        yield tokens, digest


def _steps(prompt: Prompt, rules: CacheRules) -> Iterator[tuple[int, bytes]]:
    """Yield the same for each 128 tokens, from the least that is kept on."""
    running = hashlib.blake2b(prompt.place.encode())
    tokens, next_step = 0, STEP_TOKENS
    for more, data in _pieces(prompt, rules):
        running.update(data)
        tokens += more
        while tokens >= next_step:
            if next_step >= rules.least_tokens:
                yield next_step, running.digest()
            next_step += STEP_TOKENS


def _pieces(prompt: Prompt, rules: CacheRules) -> Iterator[tuple[int, bytes]]:
    """Yield the tokens of a prompt in lots, each with what it is; a text is cut at each step."""
    yield rules.overhead_tokens, b""
    tokens = rules.overhead_tokens
    for block in prompt.blocks:
        begins = rules.counting.message_tokens * block.begins_message
        yield begins, b"\0" + block.place
        tokens += begins
        for more, text in _cut(block.text, rules.counting, tokens):
            yield more, text.encode()
            tokens += more
        for data in block.images:
            yield IMAGE_TOKENS, b"\0" + data.encode()
            tokens += IMAGE_TOKENS


def _cut(text: str, counting: Counting, before: int) -> Iterator[tuple[int, str]]:
    """Yield the pieces of a text with the tokens of each, all of them together those of the text.

    Args:
        text: All of it.
        counting: What it costs.
        before: How many tokens stand before it: a piece ends where the next step does.
    """
    start = tokens = plain = wide = 0
    while start < len(text):
        most = tokens + STEP_TOKENS - (before + tokens) % STEP_TOKENS
        begun, counted = start, tokens
        while start < len(text):
            # No character costs more than a token; of those that cost none yet, one by one.
            more = counting.chars_of(text[start : start + max(1, most - counted)])
            after = counting.of_chars(plain + more[0], wide + more[1])
            if after > most:
                break
            start, plain, wide, counted = start + sum(more), plain + more[0], wide + more[1], after
        yield counted - tokens, text[begun:start]
        tokens = counted
