"""The channel to programs: signed messages or events in, answers posted as signed events.

Each webhook-id is the id of one message, so that a request that comes again, or is played again, is
one turn: the store knows the ids of the last seven days at least, and no timestamp is taken that is
five minutes off.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import anyio

from gateway.channels.base import NotConnectedError, Receipt, SendError
from gateway.channels.fields import FieldError
from gateway.channels.hooks import HookAnswer
from gateway.channels.webhook.wire import (
    PLATFORM,
    event_id_of,
    event_in,
    message_in,
    sent_event,
)
from gateway.errors import ConfigurationError, GatewayError
from gateway.log import get_logger
from gateway.settings import SecretError
from gateway.signing.posting import Poster, PostError
from gateway.signing.signatures import UnprovenError, claim_of, key_of, prove

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gateway.channels.base import Outbound, Receive
    from gateway.channels.hooks import HookRequest
    from gateway.channels.webhook.settings import WebhookChannelSettings
    from gateway.clock import Clock
    from gateway.model import Inbound, SessionSource
    from gateway.settings import SecretSource
    from gateway.signing.posting import Answer
    from gateway.signing.signatures import Claim

NOWHERE: Final = "nowhere"
"""The platform's id of an answer that is posted to nobody, as `replies = false` has it."""
NOT_RUNNING: Final = HookAnswer(503, "The channel does not run; send it again.")
NOT_STORED: Final = HookAnswer(503, "It could not be stored; send it again.")
_PASSING: Final = frozenset({408, 409, 425, 429})
"""Refusals that another try may not have."""
_SERVER_ERRORS: Final = 500
AT_ONCE_BYTES: Final = 32_768
"""A larger body is proven and read in a thread: it would hold up everybody else."""


class WebhookChannel:
    """One account: a path that is called, and perhaps an address that answers go to."""

    platform = PLATFORM
    idempotent = True
    edits = False
    edit_interval_s = 1.0
    typing_s = 0.0
    called = True

    def __init__(self, account: str, settings: WebhookChannelSettings, clock: Clock) -> None:
        """Take the settings of an account; nothing is opened before `run`.

        Raises:
            ConfigurationError: a secret cannot be had, or is none.
        """
        self.account = account
        self.max_text_chars = settings.max_text_chars
        self._settings = settings
        self._clock = clock
        place = f"channels.{account}"
        self._keys = tuple(
            _key(f"{place}.secrets[{number}]", source)
            for number, source in enumerate(settings.secrets)
        )
        self._poster: Poster | None = None
        if settings.reply_url is not None and settings.reply_secret is not None:
            key = _key(f"{place}.reply_secret", settings.reply_secret)
            self._poster = Poster(settings.reply_url, [key], clock, settings.timeout_s)
        self._receive: Receive | None = None
        self._calls: set[anyio.CancelScope] = set()
        """Calls under way, of which each ends with the run it began in."""

    async def run(self, receive: Receive, *, ready: Callable[[], None]) -> None:
        """Take calls until cancelled; see `Channel.run`."""
        try:
            if self._poster is None:
                await self._take_calls(receive, ready)
            else:
                async with self._poster.opened():
                    await self._take_calls(receive, ready)
        finally:
            self._receive = None
            for scope in self._calls:
                scope.cancel()

    def refusal(self, headers: Mapping[str, str]) -> HookAnswer | None:
        """Return why a head can be nobody's who knows a secret; see `JudgesHeads.refusal`."""
        try:
            claim_of(headers, self._clock.now())
        except UnprovenError as error:
            return HookAnswer(401, str(error))

        return None

    async def call(self, request: HookRequest) -> HookAnswer:
        """Take a message; see `HookedChannel.call`."""
        try:
            claim = claim_of(request.headers, self._clock.now())
            if len(request.body) > AT_ONCE_BYTES:
                inbound = await anyio.to_thread.run_sync(self._proven, claim, request.body)
            else:
                inbound = self._proven(claim, request.body)
        except UnprovenError as error:
            return HookAnswer(401, str(error))
        except FieldError as error:
            return HookAnswer(400, _sentence(str(error)))

        return await self._hand_over(inbound)

    async def send(self, outbound: Outbound) -> str:
        """Post an answer; see `Channel.send`. Where none are posted, it ends here."""
        if self._poster is None:
            return NOWHERE

        event_id = event_id_of(outbound)
        body = sent_event(outbound, event_id, self.account, self._clock.now())
        try:
            answer = await self._poster.post(event_id, body)
        except PostError as error:
            if not error.sent:
                raise NotConnectedError(str(error)) from error

            raise SendError(str(error), retryable=True, ambiguous=True) from error

        if not answer.accepted:
            raise _refusal(answer)

        return event_id

    async def edit(self, outbound: Outbound, shown_id: str) -> None:
        """Refuse: what was posted stays as it is."""
        del outbound, shown_id
        raise SendError("what was posted cannot be changed", retryable=False)

    async def show_typing(self, target: SessionSource) -> None:
        """Do nothing: no program waits for a sign."""

    async def _take_calls(self, receive: Receive, ready: Callable[[], None]) -> None:
        self._receive = receive
        ready()
        await anyio.sleep_forever()

    def _proven(self, claim: Claim, body: bytes) -> Inbound:
        """Return the message that a body is; may run in any thread.

        Raises:
            UnprovenError: nobody who knows a secret has sent it.
            FieldError: it is none.
        """
        prove(claim, body, self._keys)
        return self._inbound(body, claim.message_id)

    def _inbound(self, body: bytes, message_id: str) -> Inbound:
        if self._settings.format == "event":
            chat_id = self._settings.chat_id or self.account
            return event_in(body, self.account, message_id, chat_id)

        return message_in(body, self.account, message_id)

    async def _hand_over(self, inbound: Inbound) -> HookAnswer:
        """Have a message stored or refused; say to send it again where it was neither."""
        if self._receive is None:
            return NOT_RUNNING

        receipt: Receipt | None = None
        with anyio.CancelScope() as scope:
            self._calls.add(scope)
            try:
                receipt = await self._receive(inbound)
            except GatewayError as error:
                get_logger().warning(
                    "channel.message_not_stored",
                    platform=PLATFORM,
                    account=self.account,
                    kind=type(error).__name__,
                )
                return NOT_STORED
            finally:
                self._calls.discard(scope)
        return NOT_RUNNING if receipt is None else _told(receipt)


def _refusal(answer: Answer) -> SendError:
    """Return what an answer means that took nothing."""
    said = f"answered {answer.status}"
    broken = answer.status >= _SERVER_ERRORS
    return SendError(
        said,
        retryable=broken or answer.status in _PASSING,
        retry_after_s=answer.retry_after_s,
        # Who broke may have shown it before.
        ambiguous=broken,
    )


def _told(receipt: Receipt) -> HookAnswer:
    """Return what a program is answered."""
    if receipt.busy is not None:
        status = 429 if receipt.busy.caller_limit else 503
        return HookAnswer(status, receipt.text, receipt.busy.retry_after_s)

    return HookAnswer(200 if receipt.accepted else 422, receipt.text)


def _sentence(fault: str) -> str:
    """Return a fault as a sentence; the name of a field that it begins with stays as it is."""
    named = fault.partition(" ")[0].endswith(":")
    return f"{fault}." if named else f"{fault[:1].upper()}{fault[1:]}."


def _key(place: str, source: SecretSource) -> bytes:
    try:
        return key_of(source.resolve())
    except (SecretError, ValueError) as error:
        raise ConfigurationError([f"{place}: {error}"]) from error
