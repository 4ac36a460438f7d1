"""What was said, and what waits: transcripts, inbox, outbox.

SQL over tables of the one database. Knows no session entry and no agent; the flows above put what
it writes into the same transaction as the entry's change.
"""
