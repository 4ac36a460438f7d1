"""What a user reads where a provider fails, whichever vendor it is.

Providers repeat prompts, and some the key, in their error messages. Those messages therefore go
neither into our errors nor, as a cause, into a traceback; status, code and request id do.
Knows no SDK: a vendor's file, above, names its exceptions in a `SdkErrors`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import httpx2

from gateway.errors import AgentError

if TYPE_CHECKING:
    from collections.abc import Generator

_OPERATOR: Final = "the operator must check it."
BUSY: Final = "The model's provider is overloaded or out of order. Please try again later."
NO_BALANCE: Final = f"The account at the model's provider is used up: {_OPERATOR}"
KEY_REFUSED: Final = f"The key of the model's provider is not accepted: {_OPERATOR}"
REFUSED: Final = f"The model's provider refused the request: {_OPERATOR}"
TIMED_OUT: Final = "The model did not answer in time. Please try again later."
TOO_LONG: Final = (
    "This conversation is too long for the model. Please start a new one or send a shorter message."
)
BROKEN_OFF: Final = "The model's answer broke off. Please try again."
UNREACHABLE: Final = "The model's provider cannot be reached. Please try again later."
_BY_STATUS: Final = {
    401: KEY_REFUSED,
    402: NO_BALANCE,
    403: KEY_REFUSED,
    404: f"The model's provider does not know the model: {_OPERATOR}",
    408: TIMED_OUT,
    413: TOO_LONG,
    429: "The model's provider limits the rate of requests. Please try again in a moment.",
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
    user_text: Callable[[Any], str]
    """What the user reads of an `api`."""
    facts: Callable[[Any], dict[str, object]]
    """What the log may tell of an `api`: never its message; None is left out."""


@contextmanager
def translated_errors(model: str, sdk: SdkErrors) -> Generator[None]:
    """Turn every error of an SDK and of what lies below it into an `AgentError`."""
    try:
        yield
    except (sdk.timeout, httpx2.TimeoutException) as exc:
        raise AgentError(
            f"{model}: the endpoint was silent for too long", user_text=TIMED_OUT
        ) from exc
    except (sdk.connection, httpx2.HTTPError) as exc:
        cause = exc.__cause__ or exc
        raise AgentError(
            f"{model}: connection failed ({type(cause).__name__}: {cause})", user_text=UNREACHABLE
        ) from exc
    except sdk.api as exc:
        # Not `from exc`: its message is the provider's, see the docstring of the module.
        told = _told(sdk.facts(exc))
        raise AgentError(
            f"{model}: the endpoint answered an error ({told})", user_text=sdk.user_text(exc)
        ) from None
    except ValueError as exc:
        raise AgentError(
            f"{model}: what came is not JSON in UTF-8 ({type(exc).__name__})", user_text=BROKEN_OFF
        ) from None


def text_of_status(status: int) -> str:
    """Return what the user reads of an HTTP status; 0 is an error without one."""
    general = BUSY if status >= 500 else REFUSED if status else BROKEN_OFF  # noqa: PLR2004 - HTTP
    return _BY_STATUS.get(status, general)


def _told(facts: dict[str, object]) -> str:
    return ", ".join(
        f"{name} {str(fact)[:100]!r}" for name, fact in facts.items() if fact is not None
    )
