"""Everything that can go wrong between a call and its answer, as data, and a server to do it.

The rule of this package: `table` says what happens and what the outcome must be, `exchange` does it
on a real socket, and `rules` checks every fault by the same rules.
"""
