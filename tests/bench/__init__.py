"""Measurements behind the numbers that the README gives: `make bench`.

Every figure is a ratio of two things measured in turn within one run, because the speed of a disk
and of a machine drifts more than the differences that matter.
"""
