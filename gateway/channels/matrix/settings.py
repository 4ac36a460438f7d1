"""Settings of a user on a Matrix homeserver, without its SDK."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from gateway.settings import SecretSource, Settings, check_guarded_url

EXAMPLE_URL: Final = "https://matrix.example.org"
EVERYBODY: Final = "*"
_SERVER: Final = r"[A-Za-z0-9.-]{1,230}(?::[0-9]{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](?::[0-9]{1,5})?"
_TOKEN: Final = re.compile(r"[!-~]{8,4096}")
_INVITER: Final = re.compile(rf"\*|(?:@[!-9;-~]{{0,200}}:)?(?:{_SERVER})")


def problem_of_access_token(token: str) -> str:
    """Return why a user cannot have a token, without showing it; empty where one can."""
    if _TOKEN.fullmatch(token):
        return ""

    return "no access token; accepted is what the homeserver gives at a login"


class MatrixSettings(Settings):
    """A user on a Matrix homeserver, who asks for what people write (sync)."""

    kind: Literal["matrix"]
    """The platform: `loopback`, `matrix`, `telegram` or `webhook`; it decides which keys the table
    takes."""
    homeserver: Annotated[
        str, Field(json_schema_extra={"accepted": f"an address such as {EXAMPLE_URL}"})
    ]
    """The address of the homeserver's client API, as its `.well-known` names it; http on this
    machine only."""
    token: SecretSource
    """The user's access token, as `{ file = ... }`, `{ env = ... }` or `{ credential = ... }`; the
    user and the device are those of the token. Of a user one table at most."""
    join: list[str] = Field(default_factory=list)
    """Whose invitations are accepted: users such as `@anna:example.org`, everybody of a homeserver
    such as `example.org`, or `*` for everybody. Who may then talk, `[access]` says."""
    poll_timeout_s: Annotated[int, Field(ge=1, le=300)] = 30
    """How long the homeserver may wait for a message before it answers that there is none, in
    seconds."""
    request_timeout_s: Annotated[float, Field(ge=1, le=300)] = 20.0
    """How long any other request may take, in seconds."""
    edits: bool = True
    """Whether answers grow in the chat while they are made."""
    edit_interval_s: Annotated[float, Field(ge=1, le=3_600)] = 5.0
    """The shortest time between two changes in one chat, in seconds. Synapse takes a message every
    five seconds of a user, edits among them, unless it is told otherwise."""
    typing: bool = True
    """Whether people see that an answer is being made."""
    answer_in_groups: Literal["all", "named"] = "named"
    """What is answered in rooms of several people, in threads as well: `named`, what names the user
    or answers a message of it, and commands; `all`, everything."""

    @field_validator("homeserver")
    @classmethod
    def _guards_the_token(cls, url: str) -> str:
        fault = "would send the token in the clear"
        check_guarded_url(url, such_as=EXAMPLE_URL, fault=fault)
        if "_matrix" in urlsplit(url).path.split("/"):
            raise ValueError(
                f"names the paths of the API, accepted is what stands before them: {EXAMPLE_URL}"
            )

        return url.rstrip("/")

    @field_validator("join")
    @classmethod
    def _names_inviters(cls, join: list[str]) -> list[str]:
        for one in join:
            if not _INVITER.fullmatch(one):
                raise ValueError(
                    "names nobody whose invitations could be accepted; accepted are users such as "
                    "@anna:example.org, homeservers such as example.org, and *"
                )

        return join

    def accepts(self, inviter: str) -> bool:
        """Return whether an invitation of a user is accepted; an empty id never is."""
        server = inviter.partition(":")[2]
        return bool(server) and any(one in {EVERYBODY, inviter, server} for one in self.join)
