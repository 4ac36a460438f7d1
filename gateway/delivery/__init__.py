"""Delivery: committed replies reach the platforms, a chat in order, or are seen to be dead."""
