"""What is kept and for how long: pruned items, their archive, leftovers, and erasing.

Below are the rules (`gateway.pruning`), which know no database, and the transcripts, which know no
rules.
"""
