"""Measurements behind the numbers that the README gives: `make bench`.

Every ratio is of two things measured in turn within one round of one process, because the speed of
a disk and of a machine drifts more than the differences that matter. Each part runs in a process of
its own, so that none inherits the memory of another.
"""
