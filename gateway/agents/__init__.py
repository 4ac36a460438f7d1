"""What answers: one file a vendor, behind the protocol of `gateway.agents.base`.

Vendors' SDK types and errors stop in their file. An agent knows no session store, no channel and
no transcript: it gets messages and yields what happens. `gateway.turns` is above.
"""
