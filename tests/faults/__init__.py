"""The faults that may come between a call and its answer, and a server that causes them.

The rule of this package: `table` has each fault and its required outcome, `exchange` plays the
fault on a real socket, and `rules` checks every fault by the same rules.
"""
