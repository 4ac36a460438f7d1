"""Matrix: one user of a homeserver, read by sync."""
