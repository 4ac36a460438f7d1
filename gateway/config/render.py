"""Writes a configuration file for somebody to start from.

Keys, defaults and comments are those of the settings classes; only the examples are written here.
"""

from __future__ import annotations

import inspect
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import tomli_w

from gateway.agents.settings import OpenAISettings
from gateway.config.keys import KeyPath, dotted
from gateway.config.model import GatewayConfig
from gateway.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

_WIDTH: Final = 100
_HEAD: Final = """\
# Configuration of session-gateway, every key at its default. A key left out keeps its default.
# Lines that begin with # and no space are examples.
# Check a change with: gateway check-config
"""
_EXAMPLES: Final[dict[KeyPath, str]] = {
    ("http", "token"): 'token = { file = "/path/of/a/file" }',
    ("sessions", "identities"): (
        '[[sessions.identities]]\nname = "anna"\nmembers = ["loopback/loopback/anna"]'
    ),
    ("sessions", "reset", "by_platform"): (
        '[sessions.reset.by_platform.telegram]\nmode = "daily"\ntimezone = "Europe/Berlin"'
    ),
    ("sessions", "reset", "by_chat_type"): (
        '[sessions.reset.by_chat_type.group]\nmode = "idle"\nidle_minutes = 120'
    ),
    ("context", "cache"): '[[context.cache]]\nmodel = "claude-*"\nttl_s = 3600.0',
    ("pruning", "budgets", "max_size"): 'max_size = "1GiB"',
    ("pruning", "rules"): (
        '[[pruning.rules]]\nid = "old-tool-results"\nconditions = [{ type = "type", '
        'include = ["tool_result"] }, { type = "age", max_age = "30d" }]\n'
        'action = { type = "archive" }\nignore_protections = ["tool_pair"]'
    ),
    ("pruning", "sessions"): (
        '[pruning.sessions."agent:main:telegram::dm:12345::"]\nexempt = true'
    ),
    ("access", "platforms"): (
        '[access.platforms.telegram]\nallow_users = ["12345"]\nunknown = "ignore"'
    ),
    ("channels",): '[channels.loopback]\nkind = "loopback"',
    ("webhooks",): (
        '[[webhooks]]\nname = "ops"\nurl = "https://ops.example.org/gateway"\n'
        'secret = { file = "/path/of/a/file" }\nevents = ["session.reset", "turn.completed"]'
    ),
    ("tools", "servers"): (
        '[tools.servers.fetch]\ncommand = ["uvx", "mcp-server-fetch"]\ncall_timeout_s = 60.0'
    ),
    ("processes", "cwd"): 'cwd = "/srv/work"',
    ("processes", "env"): 'env = { CI = "1" }',
    ("processes", "secret_env"): 'secret_env = { DEPLOY_KEY = { credential = "deploy-key" } }',
    ("processes", "runner"): 'runner = "/run/gateway-runner/socket"',
    ("routes",): '[[routes]]\nplatform = "telegram"\nchat_type = "dm"\nagent = "main"',
    ("agents", "gpt", "api_key"): 'api_key = { env = "OPENAI_API_KEY" }',
}
"""For keys whose default TOML cannot express, or whose empty value would forbid tables."""


def render_default_file() -> str:
    """Return the text of a file that says what the defaults say."""
    model = OpenAISettings.model_construct(model="gpt-5-mini")
    example = "\n".join(_section(("agents", "gpt"), model)).strip()
    lines = [_HEAD, *_table(GatewayConfig(), ()), "", _as_example(example)]
    return "\n".join(lines) + "\n"


def _table(settings: Settings, path: KeyPath) -> Iterator[str]:
    """Yield the lines of a table: its own keys, then the tables in it."""
    fields = type(settings).model_fields
    values = {name: getattr(settings, name) for name in fields}
    tables = [name for name, value in values.items() if _is_table(value, (*path, name))]
    for name, field in fields.items():
        if name not in tables:
            yield from _key((*path, name), values[name], field.description or "")
    for name in tables:
        yield from _tables((*path, name), values[name], fields[name].description or "")


def _is_table(value: object, path: KeyPath) -> bool:
    return isinstance(value, Settings | dict) or _EXAMPLES.get(path, "").startswith("[")


def _tables(path: KeyPath, value: object, description: str) -> Iterator[str]:
    if isinstance(value, Settings):
        yield from _section(path, value)
    elif isinstance(value, dict) and value:
        for name, item in value.items():
            yield from _section((*path, name), item, description)
    else:
        yield from _key(path, None, description)


def _section(path: KeyPath, settings: Settings, more: str = "") -> Iterator[str]:
    yield ""
    yield _comment(f"{inspect.getdoc(type(settings))} {more}")
    yield f"[{dotted(path)}]"
    yield ""
    yield from _table(settings, path)


def _key(path: KeyPath, value: Any, description: str) -> Iterator[str]:  # noqa: ANN401 - any type that TOML has
    yield _comment(description)
    if path in _EXAMPLES:
        yield _as_example(_EXAMPLES[path])
    else:
        plain = str(value) if isinstance(value, Path) else value
        yield tomli_w.dumps({str(path[-1]): plain}).strip()
    yield ""


def _comment(text: str) -> str:
    plain = " ".join(text.replace("`", "").split())
    return textwrap.fill(
        plain, _WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False
    )


def _as_example(text: str) -> str:
    """Comment out what is not yet a comment."""
    lines = text.split("\n")
    return "\n".join(line if line.startswith("#") else f"#{line}" for line in lines)
