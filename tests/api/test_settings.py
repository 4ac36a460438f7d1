"""Where the API may listen: an address that others reach takes more than its name."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from gateway.api.settings import HttpSettings

REACHABLE = {
    "host": "192.0.2.1",
    "behind_tls": True,
    "token": {"env": "TOKEN"},
    "allowed_hosts": ["chat.example"],
}


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_loopback_needs_nothing_more(host: str) -> None:
    assert HttpSettings(host=host).loopback


def test_a_reachable_address_is_accepted_with_tls_a_token_and_hosts() -> None:
    assert not HttpSettings.model_validate(REACHABLE).loopback


@pytest.mark.parametrize("missing", ["behind_tls", "token", "allowed_hosts"])
@pytest.mark.parametrize("host", ["192.0.2.1", "0.0.0.0", "::", "chat.example"])  # noqa: S104 - refused right here
def test_a_reachable_address_without_all_three_is_refused(host: str, missing: str) -> None:
    values = {key: value for key, value in REACHABLE.items() if key != missing} | {"host": host}

    with pytest.raises(ValidationError, match="not a loopback address"):
        HttpSettings.model_validate(values)


@pytest.mark.parametrize("host", ["a", "chat-1.example.", "0x.example", "a_b", "fe80::1%eth0"])
def test_what_may_be_a_name_or_an_address_is_taken(host: str) -> None:
    assert HttpSettings.model_validate(REACHABLE | {"host": host}).host == host


@pytest.mark.parametrize(
    "host",
    ["", "127.0.0.256", "1", "127.0.0.1:80", "[::1]", "http://a", "a b", "-a", "a..b", "a" * 64],
)
def test_what_is_neither_an_address_nor_a_name_is_refused(host: str) -> None:
    with pytest.raises(ValidationError, match="is no address"):
        HttpSettings.model_validate(REACHABLE | {"host": host})
