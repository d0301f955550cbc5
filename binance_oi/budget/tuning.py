"""The numbers by which we admit requests: what each means, and what it protects from.

The rule of this file: it has numbers and nothing else. A "share" is a share of the limit. "Others"
are other clients on our IP address, and "copies" are others that run this library too. A "probe" is
a request that we send alone, to read the exchange's count in its answer. A minute is "full" if our
books have no room in it, and "reserved" if we keep its room free for others.
"""

# One request. The exchange counts it at some time between its charge and its answer.
FLIGHT = 10.0  # s after its charge; by then the exchange has counted the request, or never will
PATIENCE = 2.0  # s after its charge in which a request may be written without another check
TRAVEL = FLIGHT - PATIENCE  # s after its write; by then the exchange has counted it, or never will
LAG = 1.0  # s; a count contains the weight of every request sent at least this much earlier

# Probes.
PROBE_PATIENCE = 1.0  # s that all other requests wait for the answer to a probe
CLOSING = 0.25  # s before a minute's end at which its last probe goes, at the latest
PROBE_PAUSE = 1.0  # s from a count to the next probe of its minute, at least
UNSEEN_AT_ONCE = 24  # weight under way before the first count after a full minute, at most
PROBES = 0.01  # share that all probes of a reserved minute may use
SPARING = 4  # `PROBES` / 4 applies if we saw no earlier minute and lack more than the reserve
OF_THE_REST = 0.25  # part of the time left at a count; then we probe if only the margin lacks room
FROM_RESERVE = 0.5  # part of the reserve for probes of a full minute; the last may use more

# Time between two tries to admit a request.
FORECAST_AGE = 0.25  # s for which a forecast stays valid, unless a count shows more use by others
POLL = 0.02  # s until the next try, if an answer may change the decision at any time
LEAST_WAIT = 0.001  # s: the shortest wait; with a wait of 0 the queue would spin

# What we remember, and for how long.
SIGMA = 4.0  # standard deviations kept free above a forecast, so few of many decisions fail
UNDECIDED = 8  # entries of undecided weight in a minute, at most; the last takes further weight
MEMORY = 5  # minutes for which we remember what others used
CONTRADICTIONS = 3  # `Date`s in a row that contradict our clock; then we trust the last of them
IDLE = 10  # minutes without an answer; after them we begin as after a start: others may have come

# Room for others, for copies of us, and for single calls.
CAREFUL = 120.0  # s after a start in which we send less at once: others may come every 90 s
AT_ONCE = 0.5  # share that a client without knowledge may send at once: two may start together
OURS = 0.05  # share for us and our probes that others cannot take
GROWS = 0.05  # share by which our part grows each minute beside a possible copy of us
FAIR = 0.5  # share up to which our part grows: two copies get a half each
PACE = 1 / 40  # share that we send per second beside copies that used over `BUSY` in `EARLY` s
BUSY = 0.3  # share; with a smaller copy, its use and our slow use would stay below `USED_UP`
EARLY = 15.0  # s; others that use about `FAIR` in it, or `USED_UP` with us, may be copies of us
PROBED = 4  # slots of a minute in which others send as copies probe; fewer may be chance
USED_UP = 0.75  # share at which a minute counts as used up: copies leave each other the rest
SINGLE_LEAST = 0.01  # least share kept for single calls: a bot that just started has used little
SINGLE_GROWS = 2  # we keep so many times the recent use by single calls: that use may double
RELEASE = 5.0  # s at the end of a minute, in which the room for single calls shrinks to 0

# Answers without a count, and weight that is too small to matter.
BLIND_AFTER = 10  # answers in a row without a usable count; then we rely on our books alone
BLIND_FOR = 20.0  # s after a count, in which such answers do not make us blind
BLIND_RESERVE = 0.09  # share kept free while we rely on our books alone
NEGLIGIBLE_WEIGHT = 2  # weight of others that does not matter, such as a ping
NEGLIGIBLE_SHARE = 0.001  # share of others that does not matter; the larger of the two applies
SLACK = 0.02  # share by which the counts of two nodes may differ at one moment
HIDING = 0.125  # part of the room that our weight under way may fill, as it hides use by others
CROWD = 1 / 32  # the same beside several copies of us, whose weight under way hides use too

# Refusals.
LOWEST = 0.1  # share; a refusal at a smaller count does not show a lower limit
DISTRUST = 75  # minutes for which we obey a lower limit or a rolling window
SURGE_LEAST = 0.25  # least share that we expect others to use at any moment after a refusal
SURGE_MOST = 0.5  # most share that we expect them to use, after several refusals
SURGE_GROWS = 2  # each further refusal multiplies that share by this
SURGE_FADES = 0.5  # part of the surge that remains after a whole minute without a refusal

# The exchange's clock.
EDGE = 1.5  # s by which the clock that writes the `Date` may differ from the clock of the counter
DRIFT = 1e-4  # s per s by which two clocks may drift apart
DRIFT_EVERY = 1.0  # s between two updates of our clock's error, at least

# The forecast of others.
SLOT = 5.0  # s: the step of a curve of their use
CHANCE = 2.0  # standard deviations of missing use that we take for chance, not for lateness
LATE = 20.0  # s by which an expected use may be late; after that we no longer expect it
BURST = 0.04  # share; a burst is so much more use than their usual rate
ENOUGH = 3  # minutes; once we have seen so many, their use of them bounds the room for bursts
BURST_RISK = 0.01  # chance that bursts without a rhythm need more than the room we keep for them
BURST_RISK_FOR = 3.0  # s at a minute's end; earlier we accept less risk: there is time left to send
