"""What survives power loss: the database, atomic file replacement, the directory lock, quarantine.

The only place that syncs, and the only one that opens SQLite. It knows no session and no turn: the
rooms above hand it work and bytes.
"""
