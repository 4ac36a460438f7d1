"""Writes a configuration file for somebody to start from."""

from __future__ import annotations

from typing import Final

import tomli_w

from gateway.config.model import GatewayConfig

_HEAD: Final = """\
# Configuration of session-gateway, every key at its default. A key left out keeps its default.
# Check a change with: gateway check-config

"""


def render_default_file() -> str:
    """Return the text of a file that says what the defaults say."""
    tree = GatewayConfig().to_dict()
    # An empty `routes = []` would forbid the [[routes]] that people add.
    del tree["routes"]
    return _HEAD + tomli_w.dumps(tree)
