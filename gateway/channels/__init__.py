"""Channels: one folder a platform, whose SDK types stop there. `loopback` ships with the package.

A channel hands messages in and shows what it is given; it knows neither sessions nor storage.
"""
