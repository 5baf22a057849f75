"""Breaks the running services on purpose and checks that no job, credit or picture is lost or doubled.

`python -m tests.chaos` is the long form with seeded random faults, `test_*.py` the short deterministic one.
"""
