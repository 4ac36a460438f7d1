"""Hypothesis keeps no time limit of its own: a slow machine is not a failing law."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("gateway", deadline=None)
settings.load_profile("gateway")
