"""Pairing over HTTP: who waits, who is paired, a code approved, a pairing ended.

No answer holds a code, and none says of a code more than whether it was right.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.routing import Route

from gateway.api.answers import json_response
from gateway.api.bodies import read_form
from gateway.api.form import query_form

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from gateway.access import records
    from gateway.api.context import ApiContext
    from gateway.api.form import Form


def pairing_routes(context: ApiContext) -> list[Route]:
    """Return the routes of pairing."""
    pairing = PairingRoutes(context)
    return [
        Route("/v1/pairing", pairing.show, methods=["GET"]),
        Route("/v1/pairing/approve", pairing.approve, methods=["POST"]),
        Route("/v1/pairing/revoke", pairing.revoke, methods=["POST"]),
    ]


class PairingRoutes:
    """Shows and changes who is paired."""

    def __init__(self, context: ApiContext) -> None:
        """Work on the context's pairing."""
        self._context = context
        self._pairing = context.pairing

    async def show(self, request: Request) -> Response:
        """Answer with who waits, who is paired, and where nothing is approved at present."""
        query_form(request).finish()
        found = await self._pairing.listing()
        return json_response(
            {
                "pending": [
                    _user(one) | {"asked_at": one.asked_at, "expires_at": one.expires_at}
                    for one in found.pending
                ],
                "paired": [_paired(one) for one in found.paired],
                "locked": [
                    {
                        "platform": lock.platform,
                        "account": lock.account,
                        "locked_until": lock.locked_until,
                    }
                    for lock in found.locks
                ],
            }
        )

    async def approve(self, request: Request) -> Response:
        """Pair whoever got a code, and answer with who it is."""
        form = await self._form(request)
        code = form.text("code", required=True)
        platform, account = form.identifier("platform"), form.identifier("account")
        form.finish()

        paired = await self._pairing.approve(code, platform, account)
        return json_response(_paired(paired))

    async def revoke(self, request: Request) -> Response:
        """End the pairing of a user, and answer with what ended."""
        form = await self._form(request)
        platform = form.identifier("platform", required=True)
        user_id = form.identifier("user_id", required=True)
        account = form.identifier("account")
        form.finish()

        ended = await self._pairing.revoke(platform, user_id, account)
        return json_response({"revoked": [_paired(one) for one in ended]})

    async def _form(self, request: Request) -> Form:
        query_form(request).finish()
        context = self._context
        return await read_form(request.scope, request.receive, context.settings, context.clock)


def _user(one: records.Request | records.PairedUser) -> dict[str, object]:
    return {
        "platform": one.platform,
        "account": one.account,
        "user_id": one.user_id,
        "user_name": one.user_name,
    }


def _paired(one: records.PairedUser) -> dict[str, object]:
    return _user(one) | {"paired_at": one.paired_at}
