"""Why a platform cannot be reached is said as the system says it, and never with its address."""

from __future__ import annotations

import errno
import ssl

import aiohttp
import pytest

from gateway.channels.causes import cause_of
from tests.support.ports import free_port


async def failure(url: str) -> aiohttp.ClientError:
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientError) as caught:
            await session.get(url)
    return caught.value


async def test_a_port_where_nobody_listens_refuses() -> None:
    assert cause_of(await failure(f"http://127.0.0.1:{free_port()}")) == "connection refused"


async def test_a_name_that_stands_for_nothing_has_no_address() -> None:
    cause = cause_of(await failure("http://no-such-host.invalid"))

    assert cause == "no address for its host name"


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (OSError(errno.ENETUNREACH, "to 10.0.0.1"), "network is unreachable"),
        (OSError("10.0.0.1"), "OSError"),
        (TimeoutError(), "TimeoutError"),
        (ssl.SSLError(1, "wrong version number"), "SSLError"),
        (ValueError("a secret"), "ValueError"),
    ],
)
def test_what_the_system_has_no_word_for_is_named(error: Exception, cause: str) -> None:
    assert cause_of(error) == cause
