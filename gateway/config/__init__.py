"""The configuration: one TOML file, the environment and the command line, as frozen settings.

Each part of the gateway owns its settings class; this room puts them together and nothing below
imports it. `load` reads, `keys` and `places` name, `locate` finds lines, `schema` and `check` find
and explain problems, `channels`, `identities`, `questions`, `prices` and `bounds` hold the rules
between keys, `machine` and `credentials` ask this machine, `days` holds the one key that is mended,
`live` what can change at run time, `render` writes a file to start from.
"""

from __future__ import annotations

from gateway.config.live import changed_live, with_live
from gateway.config.load import FILE_VARIABLE, Loaded, RefusedConfigurationError, load
from gateway.config.machine import check_here, doubtful_here
from gateway.config.model import GatewayConfig, RouteSettings
from gateway.config.places import Places
from gateway.config.render import render_default_file
from gateway.config.routes import Routes

__all__ = [
    "FILE_VARIABLE",
    "GatewayConfig",
    "Loaded",
    "Places",
    "RefusedConfigurationError",
    "RouteSettings",
    "Routes",
    "changed_live",
    "check_here",
    "doubtful_here",
    "load",
    "render_default_file",
    "with_live",
]
