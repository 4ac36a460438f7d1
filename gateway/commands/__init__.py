"""The way in: who writes is looked at, a command is carried out, anything else becomes a turn.

Every channel and the HTTP API hand their messages over here. Commands are read only from what an
authorised sender typed; what models, tools and processes say is never looked at.
"""
