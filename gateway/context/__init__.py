"""What is sent to a model: how large it is, and what of a session fits.

Pure: no I/O, no clock, no anyio. It knows no agent, no store and no transcript; it gets messages
and returns messages and numbers. `gateway.turns` is above.
"""

from __future__ import annotations

from gateway.context.estimate import CHARS_PER_TOKEN_ESTIMATE, estimate_context_chars

__all__ = ["CHARS_PER_TOKEN_ESTIMATE", "estimate_context_chars"]
