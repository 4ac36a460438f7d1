"""Sessions: their keys, entries, policies (all pure) and the store.

Knows no turn, channel, agent or transcript. Below it is `durable/`, above it the flows.
"""
