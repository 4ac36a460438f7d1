"""Signatures of Standard Webhooks: made, and proven of what comes in. Pure.

What is signed is `{id}.{timestamp}.{body}`, by HMAC-SHA256, over the bytes of the body as they are.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gateway.settings import is_placeholder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

ID: Final = "webhook-id"
TIMESTAMP: Final = "webhook-timestamp"
SIGNATURE: Final = "webhook-signature"
TOLERANCE_S: Final = 300
"""How far a timestamp may be from the clock here, in seconds, both ways."""
SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - what every secret begins with
LEAST_KEY_BYTES: Final = 24
MOST_KEY_BYTES: Final = 64
ACCEPTED_SECRET: Final = (
    f"{SECRET_PREFIX} and the base64 of {LEAST_KEY_BYTES} to {MOST_KEY_BYTES} random bytes"
)
MAX_ID_CHARS: Final = 256
_VERSION: Final = "v1"
# A full stop in an id would leave open where the id ends and the timestamp begins.
_MESSAGE_ID: Final = re.compile(rf"[!-\-/-~]{{1,{MAX_ID_CHARS}}}")
_SECONDS: Final = re.compile(r"[0-9]{1,12}")
_EXAMPLES: Final = frozenset({b"MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"})
"""Secrets that stand in documentation, in base64: everybody knows them."""


class UnprovenError(ValueError):
    """Nothing proves where a request comes from; the message says why."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What the head of a request says of it, to be proven by its body."""

    message_id: str
    """Stays the same however often the message is sent."""
    timestamp: str
    signatures: tuple[bytes, ...]
    """As they are given, in base64."""


def key_of(secret: str) -> bytes:
    """Return the key that a secret stands for.

    Raises:
        ValueError: it is none, or one that everybody knows; the value is not quoted.
    """
    if not secret.startswith(SECRET_PREFIX):
        raise ValueError(f"does not begin with {SECRET_PREFIX}, accepted is {ACCEPTED_SECRET}")

    text = secret.removeprefix(SECRET_PREFIX).encode("ascii", "replace")
    try:
        key = base64.b64decode(text, validate=True)
    except binascii.Error:
        raise ValueError(f"is no base64, accepted is {ACCEPTED_SECRET}") from None

    if not LEAST_KEY_BYTES <= len(key) <= MOST_KEY_BYTES:
        raise ValueError(f"stands for {len(key)} bytes, accepted is {ACCEPTED_SECRET}")
    if text in _EXAMPLES or len(set(key)) == 1 or is_placeholder(key.decode("latin-1")):
        raise ValueError(f"is a placeholder, accepted is {ACCEPTED_SECRET}")

    return key


def signed_headers(
    keys: Sequence[bytes], message_id: str, at: datetime, body: bytes
) -> dict[str, str]:
    """Return the headers that prove a body, with a signature for each key."""
    timestamp = str(int(at.timestamp()))
    signatures = (_signature(key, message_id, timestamp, body).decode() for key in keys)
    return {
        ID: message_id,
        TIMESTAMP: timestamp,
        SIGNATURE: " ".join(f"{_VERSION},{one}" for one in signatures),
    }


def claim_of(headers: Mapping[str, str], now: datetime) -> Claim:
    """Return what a head claims, before the body is read.

    Args:
        headers: By lower-case name.
        now: The wall clock.

    Raises:
        UnprovenError: a header is missing or unreadable, or the timestamp too far from the clock.
    """
    message_id, timestamp = headers.get(ID, ""), headers.get(TIMESTAMP, "")
    for name in (ID, TIMESTAMP, SIGNATURE):
        if not headers.get(name):
            raise UnprovenError(f"The header {name} is missing.")

    if not _MESSAGE_ID.fullmatch(message_id):
        raise UnprovenError(
            f"The header {ID} cannot be used; accepted are up to {MAX_ID_CHARS} visible ASCII "
            "characters without a full stop."
        )
    if not _SECONDS.fullmatch(timestamp):
        raise UnprovenError(f"The header {TIMESTAMP} is not a number of seconds since 1970.")
    if abs(now.timestamp() - int(timestamp)) > TOLERANCE_S:
        raise UnprovenError(
            f"The header {TIMESTAMP} is more than {TOLERANCE_S} seconds from the clock here."
        )

    return Claim(message_id, timestamp, _signatures(headers[SIGNATURE]))


def prove(claim: Claim, body: bytes, keys: Sequence[bytes]) -> None:
    """Return where one of the keys has signed a body, in the same time whichever it is.

    Raises:
        UnprovenError: none of them has.
    """
    proven = False
    for key in keys:
        expected = _signature(key, claim.message_id, claim.timestamp, body)
        for given in claim.signatures:
            proven |= hmac.compare_digest(expected, given)
    if not proven:
        raise UnprovenError(
            f"No signature in {SIGNATURE} is that of a configured secret over these bytes."
        )


def _signatures(header: str) -> tuple[bytes, ...]:
    parts = (one.partition(",") for one in header.split(" "))
    return tuple(
        text.encode("latin-1", "replace") for version, _, text in parts if version == _VERSION
    )


def _signature(key: bytes, message_id: str, timestamp: str, body: bytes) -> bytes:
    signed = f"{message_id}.{timestamp}.".encode() + body
    return base64.b64encode(hmac.digest(key, signed, hashlib.sha256))
