"""The HTTP API: messages in, sessions managed, state and metrics read.

A room of its own above the flows, because it is both a channel and the operator's door. It knows
neither the configuration nor how the daemon is wired.
"""
