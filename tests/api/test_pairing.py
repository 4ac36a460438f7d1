"""Pairing over HTTP: what is shown, what a code does, what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gateway.access.gate import Access
from gateway.access.pairing import Pairing
from gateway.access.settings import AccessSettings
from gateway.model import Inbound
from tests.access.people import CODE, somebody
from tests.api.running import RunningApi, running_api

if TYPE_CHECKING:
    from pathlib import Path

PATH = "/v1/pairing"
WRONG = {"code": "AAAAAAAA"}


async def ask(api: RunningApi, user_id: str, account: str = "") -> str:
    """Have a stranger ask the gateway that the API belongs to; return the code."""
    access = Access(AccessSettings(), api.pairing, api.clock)
    told = await access.admit(Inbound(somebody(user_id, account=account), "hello"))
    found = CODE.search(told.text or "")
    assert found is not None
    return found[1]


async def shown(api: RunningApi) -> Any:  # noqa: ANN401 - JSON
    response = await api.client.get(PATH)
    assert response.status_code == 200, response.text
    return response.json()


async def test_who_waits_and_who_is_paired_is_shown_without_a_code(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        nothing = await shown(api)
        code, other = await ask(api, "9"), await ask(api, "8", "bot")
        approved = await api.post(f"{PATH}/approve", {"code": code.lower()})
        document = await shown(api)

    assert nothing == {"pending": [], "paired": [], "locked": []}
    paired = {
        "platform": "telegram",
        "account": "",
        "user_id": "9",
        "user_name": "Ann",
        "paired_at": "2026-01-01T00:00:00Z",
    }
    assert (approved.status_code, approved.json()) == (200, paired)
    assert document["paired"] == [paired]
    assert document["pending"] == [
        {
            "platform": "telegram",
            "account": "bot",
            "user_id": "8",
            "user_name": "Ann",
            "asked_at": "2026-01-01T00:00:00Z",
            "expires_at": "2026-01-01T01:00:00Z",
        }
    ]
    assert other not in str(document)


async def test_a_revoked_user_is_a_stranger_again(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        await api.post(f"{PATH}/approve", {"code": await ask(api, "9")})
        body = {"platform": "telegram", "user_id": "9"}
        revoked = await api.post(f"{PATH}/revoke", body)
        again = await api.post(f"{PATH}/revoke", body)

        assert [one["user_id"] for one in revoked.json()["revoked"]] == ["9"]
        assert again.status_code == 404
        assert not api.pairing.is_paired(somebody("9"))


async def test_wrong_codes_are_refused_and_then_nothing_is_approved(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        code = await ask(api, "9")
        wrong = [await api.post(f"{PATH}/approve", WRONG) for _ in range(5)]
        right = await api.post(f"{PATH}/approve", {"code": code, "platform": "telegram"})
        document = await shown(api)

    assert [one.status_code for one in wrong] == [404] * 5
    assert right.status_code == 409
    assert "until 2026-01-01 01:00 UTC" in right.json()["detail"]
    assert document["locked"] == [
        {"platform": "telegram", "account": "", "locked_until": "2026-01-01T01:00:00Z"}
    ]


@pytest.mark.parametrize(
    ("verb", "body", "said"),
    [
        ("approve", {}, "code"),
        ("approve", {"code": 12345678}, "code"),
        ("approve", {"code": "0OI1"}, "8 letters and digits"),
        ("approve", WRONG | {"user": "9"}, "user"),
        ("revoke", {"platform": "telegram"}, "user_id"),
        ("revoke", {"user_id": "9"}, "platform"),
        ("revoke", {"platform": "telegram", "user_id": "9\u0000"}, "user_id"),
        ("revoke", {"platform": "telegram", "user_id": ""}, "user_id"),
    ],
)
async def test_a_wrong_request_is_told_so(
    tmp_path: Path, verb: str, body: dict[str, object], said: str
) -> None:
    async with running_api(tmp_path) as api:
        response = await api.post(f"{PATH}/{verb}", body)

    assert response.status_code == 400
    assert said in response.json()["detail"]


async def test_nobody_is_paired_without_the_token(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        code = await ask(api, "9")
        headers = {"Authorization": "Bearer wrong"}
        for method, path in (("GET", ""), ("POST", "/approve"), ("POST", "/revoke")):
            content = b"" if method == "GET" else b'{"code":"%b"}' % code.encode()
            response = await api.client.request(
                method, f"{PATH}{path}", headers=headers, content=content
            )
            assert response.status_code == 401
        assert not api.pairing.is_paired(somebody("9"))


async def test_what_is_paired_over_http_is_durable(tmp_path: Path) -> None:
    async with running_api(tmp_path) as api:
        await api.post(f"{PATH}/approve", {"code": await ask(api, "9")})
        again = await Pairing.load(api.state.database, api.clock)

    assert again.is_paired(somebody("9"))
