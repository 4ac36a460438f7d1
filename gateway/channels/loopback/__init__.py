"""Loopback: a Unix socket that speaks JSON lines, for bridges and scripts."""
