"""What answers: one file a vendor, each a model under one tool loop (`gateway.agents.loop`).

Vendors' SDK types and errors stop in their file. An agent (`gateway.agents.base`) knows no session
store, no channel and no transcript: it is given a conversation and yields what happens.
`gateway.turns` is above.
"""
