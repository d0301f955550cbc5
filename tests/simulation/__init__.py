"""The shipped governor in virtual time, against the local exchange's own counter.

Rule of this package: nothing of the governor's arithmetic is repeated here. The exchange's side is
`binance_oi.simulator.counter`, which shares no code with the client, and the verdict is its count.
The same seed gives the same trace.
"""
