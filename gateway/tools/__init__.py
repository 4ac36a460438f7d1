"""Tools from MCP servers: started, watched, started again, and offered to agents by name.

What a tool returns is data for a model and is never read as anything else. Knows no agent and no
turn. The SDK's types stop in the modules that `tests/layers.py` names, which are imported only
where a server is configured.
"""
