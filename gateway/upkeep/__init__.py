"""Looking after a state directory: copying it, checking it, and saving what is left of one.

Reads beside a running daemon or of a stopped one, and never changes the directory it reads.
Above it is the command line; below are the sessions and transcripts that it compares.
"""
