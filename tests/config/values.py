"""Made-up configurations that are right, drawn from what the settings classes say they take."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from gateway.config import GatewayConfig
from gateway.config.schema import schema_of

if TYPE_CHECKING:
    from gateway.config.keys import KeyPath
    from gateway.config.schema import Node

SECRETS = st.sampled_from([{"file": "key"}, {"env": "KEY"}, {"credential": "key"}])
SESSION = "agent:main:telegram::dm:12345::"
MEMBER = "loopback/loopback/@"
EVERY_TABLE: dict[str, Any] = {
    "agents": {
        "main": {"kind": "echo"},
        "gpt": {"kind": "openai", "model": "m", "api_key": {"env": "KEY"}},
        "script.ed": {"kind": "scripted", "replies": ["a"]},
    },
    "tools": {
        "servers": {
            "fetch": {
                "command": ["fetch"],
                "env": {"A": "b"},
                "secret_env": {"C": {"env": "KEY"}},
            },
            "search": {"url": "http://127.0.0.1:1/mcp", "headers": {"X-Key": {"env": "KEY"}}},
        }
    },
    "channels": {
        "loopback": {"kind": "loopback", "path": "/run/loopback.sock"},
        "matrix": {
            "kind": "matrix",
            "homeserver": "https://matrix.example.org",
            "token": {"env": "KEY"},
        },
        "telegram": {"kind": "telegram", "token": {"env": "KEY"}},
        "webhook": {
            "kind": "webhook",
            "secrets": [{"env": "KEY"}],
            "reply_url": "https://example.org/in",
            "reply_secret": {"env": "KEY"},
        },
    },
    "pruning": {"sessions": {SESSION: {"thresholds": {"max_count": 9}}}},
    "access": {"platforms": {"loopback": {}, "http/a": {"unknown": "pair"}}},
    "processes": {"env": {"A": "b"}, "secret_env": {"C": {"env": "KEY"}}},
    "sessions": {
        "reset": {
            "by_platform": {"telegram": {"mode": "idle"}},
            "by_chat_type": {"group": {"at_hour": 5}},
        }
    },
}
"""One table of each kind that users name, so that every key there is has a path."""

OF_THE_OTHER_TRANSPORT = {
    "fetch": {"url", "headers"},
    "search": {"command", "env", "secret_env", "inherit_env", "cwd"},
}
"""Keys that a server of `EVERY_TABLE` does not take, for it is no program or no address."""
LIMITS_IN_DOLLARS = ("session_usd", "user_usd_per_day", "usd_per_day")
DURATIONS = st.sampled_from(["90s", "5m", "1h30m", "30d", "36525d"])
KEPT = DURATIONS | st.just("forever")
SIZES = st.sampled_from(["0B", "100kB", "64MiB"])
RULE = {
    "id": "old",
    "conditions": [{"type": "age", "max_age": "30d"}, {"type": "count", "max_count": 3}],
    "action": {"type": "compact", "ratio": 0.25},
}
ARGUMENTS = st.text(st.characters(exclude_characters="\0", codec="utf-8"))
SPECIAL: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(("check_interval", "min_prune_interval", "max_duration", "max_age"), DURATIONS),
    **dict.fromkeys(("grace", "min_age", "restored", "settle"), DURATIONS),
    **dict.fromkeys(("archive_keep", "audit_keep", "removed_sessions_keep"), KEPT),
    **dict.fromkeys(("max_size", "max_total_size"), SIZES),
    "rules": st.lists(st.just(RULE), max_size=1),
    "default_agent": st.just("main"),
    "host": st.sampled_from(["127.0.0.1", "localhost", "::1"]),
    "timezone": st.sampled_from(["UTC", "Europe/Berlin", "America/New_York"]),
    "path": st.sampled_from(["loopback.sock", "/run/a b/ü.sock"]),
    "state_dir": st.sampled_from(["state", "/var/lib/x", "a b/ü", "./x/"]),
    "homeserver": st.sampled_from(["https://matrix.example.org", "http://[::1]:8008"]),
    "join": st.lists(st.sampled_from(["*", "@ann:example.org", "example.org:8448", "[::1]"])),
    "base_url": st.sampled_from(["https://example.org/v1", "http://127.0.0.1:1/v1"]),
    "model": st.text(min_size=1, max_size=256),
    "context_window_tokens": st.integers(100_000, 200_000),
    "reserve_tokens": st.integers(50, 99_999),
    "max_output_tokens": st.integers(0, 50),
    "soft_trim_ratio": st.floats(0, 0.5),
    "hard_clear_ratio": st.floats(0.5, 0.9),
    "force_ratio": st.floats(0.9, 1),
    "max_chars": st.integers(3_000, 2**62),
    "head_chars": st.integers(0, 1_500),
    "tail_chars": st.integers(0, 1_500),
    "placeholder": st.text(max_size=30).map("[{}]".format),
    "allow": st.lists(st.text().map("a{}*".format), max_size=3),
    "deny": st.lists(st.text().map("d{}*".format), max_size=3),
    "ask": st.lists(st.text().map("a{}*".format), max_size=3),
    "turn_deadline_s": st.floats(400, 86_400),
    "approval_timeout_s": st.floats(1, 200),
    "fallback": st.lists(st.sampled_from(["main", "gpt"]), max_size=2, unique=True),
    "cache": st.lists(
        st.fixed_dictionaries(
            {},
            optional={
                "agent": st.text(min_size=1),
                "model": st.sampled_from(["m-*", "*"]),
                "ttl_s": st.floats(1e-6, 2_592_000),
                "read_multiplier": st.floats(0, 100),
                "min_tokens": st.integers(0, 2**62),
                "input_usd_per_mtok": st.floats(0, 1e6),
                "write_1h_multiplier": st.floats(0, 100),
            },
        ),
        max_size=3,
    ),
    "command": st.lists(st.sampled_from(["fetch", "a b", "ü"]), min_size=1),
    "admins": st.lists(st.sampled_from(["telegram:12345", "matrix:@ann:example.org"])),
    "allow_users": st.lists(st.sampled_from(["*", "12345", "ü"])),
    "allow_chats": st.lists(st.sampled_from(["-100123", "a b"])),
    "inherit_env": st.lists(st.sampled_from(["PATH", "HOME"])),
    "runner": st.sampled_from(["/run/gateway-runner/socket", "ü"]),
    "cwd": st.sampled_from([".", "/a b"]),
    "url": st.sampled_from(["http://127.0.0.1:1/mcp", "https://example.org/mcp?x=1"]),
    "secrets": st.lists(SECRETS, min_size=1, max_size=4),
    "reply_url": st.sampled_from(["https://example.org/in", "http://127.0.0.1:1/in"]),
    "webhooks": st.lists(
        st.fixed_dictionaries(
            {
                "name": st.sampled_from(["a", "ops-2", "x_y"]),
                "url": st.sampled_from(["https://example.org/in", "http://[::1]:1/in"]),
                "secret": SECRETS,
            },
            optional={
                "events": st.lists(st.sampled_from(["session.reset", "turn.completed"]), min_size=1)
            },
        ),
        max_size=3,
        unique_by=lambda one: str(one["name"]),
    ),
    "A": ARGUMENTS,
    "shell": st.lists(ARGUMENTS),
    "replies": st.lists(st.sampled_from(["a", "b\nc"]), min_size=1),
    "identities": st.lists(
        st.sampled_from(["anna", "ben", "c.d"]).map(
            lambda name: {
                "name": name,
                "members": [f"loopback/loopback/{name} ü", f"{MEMBER}{name}"],
            }
        ),
        max_size=2,
        unique_by=lambda one: str(one["name"]),
    ),
    "routes": st.lists(
        st.fixed_dictionaries(
            {"platform": st.text(), "agent": st.sampled_from(["main", "gpt"])},
            optional={
                "account": st.sampled_from(["loopback", "telegram"]),
                "chat_type": st.sampled_from(["dm", "group"]),
                "chat_id": st.text(),
                "user_id": st.text(min_size=1),
            },
        ),
        max_size=3,
    ),
}


def leaves() -> list[KeyPath]:
    """Return every key that the configuration has."""
    return list(schema_of(GatewayConfig).leaves(EVERY_TABLE))


@st.composite
def trees(draw: st.DrawFn) -> dict[str, Any]:
    """Draw values for some of the keys, as `GatewayConfig.from_dict` takes them."""
    tree: dict[str, Any] = {
        "agents": {name: dict(table) for name, table in EVERY_TABLE["agents"].items()},
        "tools": deepcopy(EVERY_TABLE["tools"]),
        "channels": deepcopy(EVERY_TABLE["channels"]),
    }
    for path in draw(st.lists(st.sampled_from(leaves()), unique=True)):
        node = schema_of(GatewayConfig).at(path, EVERY_TABLE)
        if path[-1] in {"file", "env", "credential", "kind"} or node is None:
            continue
        if path[:3] == ("channels", "telegram", "webhook"):
            # Its secret and its address come together.
            continue
        if path[0] == "tools" and path[3] in OF_THE_OTHER_TRANSPORT[str(path[2])]:
            continue
        table = tree
        for part in path[:-1]:
            table = table.setdefault(str(part), {})
        name = str(path[-1])
        # A scripted agent has a list of them.
        special = name in SPECIAL and (path[0], name) != ("channels", "replies")
        table[name] = draw(SPECIAL[name] if special else _drawn_from(node))
    for agent, settings in tree["agents"].items():
        if "fallback" in settings:
            # No agent stands in for itself.
            settings["fallback"] = [name for name in settings["fallback"] if name != agent]
    tree["channels"]["webhook"] = _said_once(tree["channels"]["webhook"])
    if any(tree.get("budgets", {}).get(key) for key in LIMITS_IN_DOLLARS):
        # Then every agent needs a price.
        priced = {"input_usd_per_mtok": 1.0, "output_usd_per_mtok": 2.0}
        context = tree.setdefault("context", {})
        context["cache"] = [priced, *context.get("cache", [])]
    if draw(st.booleans()):
        tree.setdefault("http", {})["token"] = draw(SECRETS)
    return tree


def _said_once(hook: dict[str, Any]) -> dict[str, Any]:
    """Return the table of a webhook channel without what its other keys rule out."""
    without = set() if hook.get("replies", True) else {"reply_url", "reply_secret"}
    if hook.get("format") != "event":
        without.add("chat_id")
    return {key: one for key, one in hook.items() if key not in without}


def _drawn_from(node: Node) -> st.SearchStrategy[Any]:
    drawn: st.SearchStrategy[Any]
    least, most = node.get("minimum"), node.get("maximum")
    match node:
        case {"enum": choices}:
            drawn = st.sampled_from(choices)
        case {"type": "boolean"}:
            drawn = st.booleans()
        case {"type": "integer"}:
            above = node.get("exclusiveMinimum", -1) + 1
            drawn = st.integers(above if least is None else least, most or 2**62)
        case {"type": "number"}:
            drawn = st.floats(1e-6 if least is None else least, most or 1e300)
        case {"type": "array"}:
            drawn = st.lists(st.text())
        case _:
            drawn = st.text()
    return drawn
