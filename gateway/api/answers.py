"""What the API answers with: JSON, instants as RFC 3339 in UTC with `Z`."""

from __future__ import annotations

import orjson
from starlette.responses import Response


def to_json(value: object) -> bytes:
    """Return a value as JSON; dataclasses become objects of their fields."""
    return orjson.dumps(value, option=orjson.OPT_UTC_Z)


def json_response(value: object, status: int = 200) -> Response:
    """Return a response with a JSON body."""
    return Response(to_json(value), status, media_type="application/json")
