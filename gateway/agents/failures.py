"""What a failure of a provider means, whichever vendor it is.

Providers repeat prompts, and some the key, in their error messages. Those messages therefore go
neither into our errors nor, as a cause, into a traceback; status, code and request id do.
Knows no SDK: a vendor's file, above, names its exceptions in a `SdkErrors`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final

import httpx2

from gateway.errors import AgentError, AgentFailure

if TYPE_CHECKING:
    from collections.abc import Generator

    from gateway.clock import Clock


@dataclass(frozen=True, slots=True)
class Fault:
    """What a failure means to the user, and to whoever might ask another agent."""

    user_text: str
    failure: AgentFailure = AgentFailure.OTHER

    def error(self, reason: str, *, retry_after_s: float | None = None) -> AgentError:
        """Return it as an error; `reason` is for the log."""
        return AgentError(
            reason, user_text=self.user_text, failure=self.failure, retry_after_s=retry_after_s
        )


_OPERATOR: Final = "the operator must check it."
BUSY: Final = Fault(
    "The model's provider is overloaded or out of order. Please try again later.",
    AgentFailure.OUTAGE,
)
NO_BALANCE: Final = Fault(f"The account at the model's provider is used up: {_OPERATOR}")
KEY_REFUSED: Final = Fault(f"The key of the model's provider is not accepted: {_OPERATOR}")
REFUSED: Final = Fault(f"The model's provider refused the request: {_OPERATOR}")
RATE_LIMITED: Final = Fault(
    "The model's provider limits the rate of requests. Please try again in a moment.",
    AgentFailure.RATE_LIMIT,
)
TIMED_OUT: Final = Fault(
    "The model did not answer in time. Please try again later.", AgentFailure.OUTAGE
)
TOO_LONG: Final = Fault(
    "This conversation is too long for the model. Please start a new one or send a shorter "
    "message.",
    AgentFailure.OVERFLOW,
)
BROKEN_OFF: Final = Fault("The model's answer broke off. Please try again.", AgentFailure.OUTAGE)
ENDLESS: Final = replace(BROKEN_OFF, failure=AgentFailure.OTHER)
NO_ANSWER: Final = Fault("The model gave no answer. Please try again.")
UNREACHABLE: Final = Fault(
    "The model's provider cannot be reached. Please try again later.", AgentFailure.OUTAGE
)
ABOUT_LENGTH: Final = re.compile(
    r"context[_ ](?:length|limit|window|size)|(?:prompt|input|request) is too long"
    r"|maximum (?:context|prompt) length|input token count|exceeds? (?:the )?max(?:imum)? length"
    r"|reduce the length of",
    re.IGNORECASE,
)
"""How providers say that a request does not fit the window."""
LONGEST_PAUSE_S: Final = 86_400.0
"""A provider that asks for more is taken to ask for this."""
_BY_STATUS: Final = {
    401: KEY_REFUSED,
    402: NO_BALANCE,
    403: KEY_REFUSED,
    404: Fault(f"The model's provider does not know the model: {_OPERATOR}"),
    408: TIMED_OUT,
    413: TOO_LONG,
    429: RATE_LIMITED,
    504: TIMED_OUT,
}


@dataclass(frozen=True, slots=True)
class SdkErrors:
    """A vendor's exceptions, and how to read them."""

    timeout: type[Exception]
    """Its silence; one of `connection`."""
    connection: type[Exception]
    """Its connection; one of `api`."""
    api: type[Exception]
    """Everything that its SDK raises."""
    status: type[Exception]
    """An answer that is an error; one of `api`, with the response in `response`."""
    fault: Callable[[Any], Fault]
    """What an `api` means."""
    facts: Callable[[Any], dict[str, object]]
    """What the log may tell of an `api`: never its message; None is left out."""


@contextmanager
def translated_errors(model: str, sdk: SdkErrors, clock: Clock) -> Generator[None]:
    """Turn every error of an SDK and of what lies below it into an `AgentError`."""
    try:
        yield
    except (sdk.timeout, httpx2.TimeoutException) as exc:
        raise TIMED_OUT.error(f"{model}: the endpoint was silent for too long") from exc
    except (sdk.connection, httpx2.HTTPError) as exc:
        cause = exc.__cause__ or exc
        raise UNREACHABLE.error(
            f"{model}: connection failed ({type(cause).__name__}: {cause})"
        ) from exc
    except sdk.api as exc:
        # Not `from exc`: its message is the provider's, see the docstring of the module.
        told: Any = exc
        headers = told.response.headers if isinstance(exc, sdk.status) else {}
        raise sdk.fault(exc).error(
            f"{model}: the endpoint answered an error ({_told(sdk.facts(exc))})",
            retry_after_s=retry_after_s(headers, clock),
        ) from None
    except ValueError as exc:
        raise BROKEN_OFF.error(
            f"{model}: what came is not JSON in UTF-8 ({type(exc).__name__})"
        ) from None


def fault_of_status(status: int) -> Fault:
    """Return what an HTTP status means; 0 is an error inside a stream, without one."""
    general = BUSY if status >= 500 else REFUSED if status else BROKEN_OFF  # noqa: PLR2004 - HTTP
    return _BY_STATUS.get(status, general)


def retry_after_s(headers: Mapping[str, str], clock: Clock) -> float | None:
    """Return the pause that a response asks for, in seconds; None if it asks for none."""
    pause_s = _asked_pause_s(headers, clock)
    if pause_s is None or math.isnan(pause_s):
        return None

    return min(LONGEST_PAUSE_S, max(0.0, pause_s))


def _asked_pause_s(headers: Mapping[str, str], clock: Clock) -> float | None:
    header = headers.get("retry-after", "")
    with suppress(ValueError):
        return float(headers.get("retry-after-ms", "")) / 1_000
    with suppress(ValueError):
        return float(header)
    try:
        until = parsedate_to_datetime(header)
    except (OverflowError, ValueError):
        return None

    return (until.replace(tzinfo=until.tzinfo or UTC) - clock.now()).total_seconds()


def _told(facts: dict[str, object]) -> str:
    return ", ".join(
        f"{name} {str(fact)[:100]!r}" for name, fact in facts.items() if fact is not None
    )
