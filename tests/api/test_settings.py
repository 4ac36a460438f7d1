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
@pytest.mark.parametrize("host", ["192.0.2.1", "0.0.0.0", "::", "chat.example", ""])  # noqa: S104 - refused right here
def test_a_reachable_address_without_all_three_is_refused(host: str, missing: str) -> None:
    values = {key: value for key, value in REACHABLE.items() if key != missing} | {"host": host}

    with pytest.raises(ValidationError, match="not a loopback address"):
        HttpSettings.model_validate(values)
