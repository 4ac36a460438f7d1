"""A self-hosted daemon between chat platforms and LLM agents.

It reads top down by floors: the command line, the daemon that puts the parts together, their
configuration and the HTTP API, the flows, the rooms, the foundations. Imports point strictly down;
`tests/layers.py` holds the table of floors.
"""

from __future__ import annotations

__version__ = "0.1.0"
