"""Load tests of the service, with thousands of listeners or 300 visitors: `nox -s service`.

Rule of this folder: a bound is a count, or a ratio of two figures of one run, and never a number of
seconds. Figures without a bound are only printed.
"""
