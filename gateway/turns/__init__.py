"""The flow of one inbound message: accept, run, commit, deliver.

Below it are sessions, transcripts, context and agents, which do not know each other; above it are
the API, which hands messages in, and the daemon, which owns the task group.
"""
