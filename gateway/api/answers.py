"""What the API answers with: JSON, instants as RFC 3339 in UTC with `Z`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, overload

import orjson
from starlette.responses import Response

if TYPE_CHECKING:
    from starlette.types import Send

    from gateway.transcripts.accounts import ContextAccount


def to_json(value: object) -> bytes:
    """Return a value as JSON; dataclasses become objects of their fields."""
    return orjson.dumps(value, option=orjson.OPT_UTC_Z)


def json_response(value: object, status: int = 200) -> Response:
    """Return a response with a JSON body."""
    return Response(to_json(value), status, media_type="application/json")


@overload
def shown_usd(usd: float) -> float: ...
@overload
def shown_usd(usd: float | None) -> float | None: ...
def shown_usd(usd: float | None) -> float | None:
    """Return US dollars as they are shown: to a millionth; sums of fractions carry noise."""
    return None if usd is None else round(usd, 6)


def shown_account(account: ContextAccount) -> dict[str, Any]:
    """Return what a context was measured as, as it is shown."""
    return asdict(account) | {"saved_usd": shown_usd(account.saved_usd)}


async def send_json(send: Send, value: object) -> None:
    """Answer an ASGI request with JSON, status 200; a response object would cost more than it."""
    body = to_json(value)
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
