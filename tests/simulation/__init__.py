"""The package's governor in virtual time, against the local exchange's own counter.

Rule of this package: it repeats none of the governor's arithmetic. The exchange's side is
`binance_oi.simulator.counter`, which shares no code with the client, and its count decides whether
a run passes. The same seed gives the same trace.
"""
