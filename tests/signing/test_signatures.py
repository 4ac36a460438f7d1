"""Signatures of Standard Webhooks, by its own example and by ones made here by other code."""

from __future__ import annotations

import base64
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import override

from gateway.signing.signatures import (
    TOLERANCE_S,
    Claim,
    UnprovenError,
    claim_of,
    key_of,
    prove,
    signed_headers,
)
from tests.support.webhooks import OTHER_SECRET, SECRET, signature, signed

AT = datetime(2026, 1, 1, tzinfo=UTC)
BODY = b'{"a": 1}'
DOCUMENTED = "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
"""The key in the examples of the specification's libraries."""


def test_the_documented_example_is_signed_as_documented() -> None:
    at = datetime.fromtimestamp(1614265330, UTC)
    key = base64.b64decode(DOCUMENTED)

    headers = signed_headers([key], "msg_p5jXN8AQM9LWM0D4loKWxJek", at, b'{"test": 2432232314}')

    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


@given(
    st.binary(max_size=300), st.binary(min_size=24, max_size=64).filter(lambda k: len(set(k)) > 1)
)
def test_whatever_is_signed_is_proven_and_nothing_else(body: bytes, key: bytes) -> None:
    secret = "whsec_" + base64.b64encode(key).decode()
    claim = claim_of(signed(secret, "m", AT, body), AT)

    prove(claim, body, [key_of(OTHER_SECRET), key_of(secret)])
    with pytest.raises(UnprovenError):
        prove(claim, body + b" ", [key_of(secret)])
    with pytest.raises(UnprovenError):
        prove(claim, body, [key_of(OTHER_SECRET)])


def test_one_right_signature_among_several_is_enough() -> None:
    headers = signed(SECRET, "m", AT, BODY)
    right = headers["webhook-signature"]
    headers["webhook-signature"] = f"v1a,xyz v1,AAAA {right} v2,q"

    prove(claim_of(headers, AT), BODY, [key_of(SECRET)])


class Guarded(bytes):
    """Is compared in constant time alone: `==` ends at the first byte that differs."""

    @override
    def __eq__(self, other: object) -> bool:
        raise AssertionError("compared by ==")

    __hash__ = None  # type: ignore[assignment]


def test_signatures_are_compared_in_constant_time_and_all_of_them() -> None:
    right = signature(SECRET, "m", int(AT.timestamp()), BODY).partition(",")[2].encode()
    keys = [key_of(OTHER_SECRET), key_of(SECRET)]

    for given_ones, proven in (([right, b"x"], True), ([right[:-1] + b"x"], False)):
        claim = Claim("m", str(int(AT.timestamp())), tuple(map(Guarded, given_ones)))
        with nullcontext() if proven else pytest.raises(UnprovenError):
            prove(claim, BODY, keys)


@pytest.mark.parametrize(
    "given_as",
    ["v1,", "v1", "", " ", "v1,ü", "v0,{}", "{}", "v1 {}", "v1,{},x"],
)
def test_nothing_else_is_a_signature(given_as: str) -> None:
    headers = signed(SECRET, "m", AT, BODY)
    right = headers["webhook-signature"].partition(",")[2]
    headers["webhook-signature"] = given_as.replace("{}", right)

    with pytest.raises(UnprovenError):
        prove(claim_of(headers, AT), BODY, [key_of(SECRET)])


@pytest.mark.parametrize("off_s", [-TOLERANCE_S, 0, TOLERANCE_S])
def test_a_timestamp_within_five_minutes_is_taken(off_s: int) -> None:
    claim_of(signed(SECRET, "m", AT + timedelta(seconds=off_s), BODY), AT)


@pytest.mark.parametrize("off_s", [-TOLERANCE_S - 1, TOLERANCE_S + 1, -(10**9), 10**9])
def test_a_timestamp_further_off_is_refused(off_s: int) -> None:
    with pytest.raises(UnprovenError, match="more than 300 seconds"):
        claim_of(signed(SECRET, "m", AT + timedelta(seconds=off_s), BODY), AT)


@pytest.mark.parametrize("name", ["webhook-id", "webhook-timestamp", "webhook-signature"])
def test_a_header_that_is_missing_is_named(name: str) -> None:
    headers = signed(SECRET, "m", AT, BODY)
    del headers[name]

    with pytest.raises(UnprovenError, match=f"{name} is missing"):
        claim_of(headers, AT)


@pytest.mark.parametrize("message_id", ["a.b", "a b", "ü", "a\tb", "x" * 257, "a, b"])
def test_an_id_that_could_be_read_in_two_ways_is_refused(message_id: str) -> None:
    with pytest.raises(UnprovenError, match="webhook-id cannot be used"):
        claim_of(signed(SECRET, "m", AT, BODY) | {"webhook-id": message_id}, AT)


@pytest.mark.parametrize("timestamp", ["1e9", "-1", "+1", "1.0", "\u0661", " 1", "9" * 13, "0x1"])
def test_a_timestamp_that_is_none_is_refused(timestamp: str) -> None:
    with pytest.raises(UnprovenError, match="not a number of seconds"):
        claim_of(signed(SECRET, "m", AT, BODY) | {"webhook-timestamp": timestamp}, AT)


def test_every_key_signs_while_one_takes_the_place_of_another() -> None:
    keys = [key_of(SECRET), key_of(OTHER_SECRET)]

    headers = signed_headers(keys, "m", AT, BODY)

    timestamp = int(AT.timestamp())
    assert headers["webhook-signature"].split(" ") == [
        signature(secret, "m", timestamp, BODY) for secret in (SECRET, OTHER_SECRET)
    ]


@pytest.mark.parametrize(
    ("secret", "told"),
    [
        pytest.param("x" * 40, "does not begin with whsec_", id="no-prefix"),
        pytest.param("whsec_", "stands for 0 bytes", id="blank"),
        pytest.param("whsec_undefined", "no base64", id="undefined"),
        pytest.param("whsec_null", "stands for 3 bytes", id="null"),
        pytest.param("whsec_changeme", "stands for 6 bytes", id="changeme"),
        pytest.param(
            "whsec_" + base64.b64encode(bytes(range(23))).decode(), "for 23 bytes", id="short"
        ),
        pytest.param(
            "whsec_" + base64.b64encode(bytes(range(65))).decode(), "for 65 bytes", id="long"
        ),
        pytest.param("whsec_" + "A" * 32, "a placeholder", id="all-alike"),
        pytest.param(f"whsec_{DOCUMENTED}", "a placeholder", id="documented"),
        pytest.param("whsec_Y2hhbmdlbWUtY2hhbmdlbWUtY2hhbmdlbWU=", "a placeholder", id="words"),
        pytest.param(f"{SECRET} x", "no base64", id="more-behind"),
        pytest.param("whsec_ü" + "A" * 31, "no base64", id="not-ascii"),
    ],
)
def test_what_is_no_secret_is_refused_and_not_quoted(secret: str, told: str) -> None:
    with pytest.raises(ValueError, match=told) as caught:
        key_of(secret)

    assert secret.removeprefix("whsec_")[:20] not in str(caught.value) or len(secret) < 7
