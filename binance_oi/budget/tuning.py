"""Every number of the decision core: what it means, and what it protects from.

The rule of this file: it has numbers and nothing else. A "share" is a share of the limit. "Others"
are other clients on our IP address, and "copies" are others that run this library too.
"""

# One request. The exchange counts it at some time between its charge and its answer.
FLIGHT = 10.0  # s after its charge; by then the exchange has counted the request, or never will
PATIENCE = 2.0  # s after its charge in which a request may be written without another check
TRAVEL = FLIGHT - PATIENCE  # s after its write; by then the exchange has counted it, or never will
LAG = 1.0  # s; a count contains the weight of every request sent at least this much earlier

# Probes.
PROBE_PATIENCE = 1.0  # s for which other requests wait for the answer to a probe
CLOSING = 0.25  # s before the end of a full minute; at that time we send its last probe
PROBE_PAUSE = 1.0  # s between two probes of one minute, at least
UNSEEN_AT_ONCE = 24  # weight under way before a minute's first count, at most: 1 % of 2400
PROBES = 0.01  # share that all probes of one minute reserved for others may use
SPARING = 4  # times the usual pause between probes, if a forecast without a past exceeds the room
OF_THE_REST = 0.25  # part of the time left, after which we probe if only the margin does not fit
FROM_RESERVE = 0.5  # part of the reserve for probes of a full minute; the last probe may use more

# Time between two questions to the rules.
FORECAST_AGE = 0.25  # s for which a forecast stays valid, unless a count shows more use by others
POLL = 0.02  # s after which we ask the rules again, because another process may have sent
LEAST_WAIT = 0.001  # s: the shortest wait; with a wait of 0 the queue would spin

# What we remember, and for how long.
SIGMA = 4.0  # standard deviations that we keep free above a forecast: we decide often
UNDECIDED = 8  # entries of undecided weight in a minute, at most
MEMORY = 5  # minutes for which we remember what others used
CONTRADICTIONS = 3  # `Date`s in a row that contradict our clock before we trust them
IDLE = 10  # minutes without an answer, after which our knowledge expires: others may have come

# Room for others, for copies of us, and for single calls.
AT_ONCE = 0.5  # share that a client without knowledge sends at once: two may start together
OURS = 0.05  # share that is ours, probes included, whatever others used before
GROWS = 0.05  # share by which our part grows each minute beside a possible copy of us
FAIR = 0.5  # share up to which our part grows: two copies get a half each
PACE = 1 / 40  # share that we send per second beside copies that use more than `FAIR`
EARLY = 15.0  # s into a minute; others that use up the minute by then may be copies of us
WHOLE = 0.75  # share that counts as the whole minute: copies leave the rest for each other
SINGLE_LEAST = 0.01  # share kept for single calls, at least: a bot that starts has made few calls
SINGLE_GROWS = 2  # times the recent use by single calls that we keep free: it may double
RELEASE = 5.0  # s before the end of a minute in which the room for single calls shrinks to 0

# Answers without a count, and weight that is too small to matter.
BLIND_AFTER = 10  # answers in a row without a usable count; then we rely on our books alone
BLIND_FOR = 20.0  # s since the last count; before that, such answers do not make us blind
BLIND_RESERVE = 0.09  # share kept free while we rely on our books alone
NEGLIGIBLE_WEIGHT = 2  # weight of others that does not matter, such as a ping
NEGLIGIBLE_SHARE = 0.001  # share of others that does not matter; the larger of the two applies
SLACK = 0.02  # share by which the counts of two nodes may differ at one moment
HIDING = 0.125  # part of the room that our weight under way may take: it hides use by others
CROWD = 1 / 32  # the same beside several copies of us, whose weight under way hides use too

# Refusals.
LOWEST = 0.1  # share; a refusal at a smaller count has another reason than a lower limit
DISTRUST = 75  # minutes for which we obey a lower limit or a rolling window: a ban and an hour
SURGE_LEAST = 0.25  # share that others may use at any moment after a refusal, at least
SURGE_MOST = 0.5  # the same after several refusals, at most
SURGE_GROWS = 2  # each further refusal multiplies that share by this
SURGE_FADES = 0.5  # part of the surge that remains after a whole minute without a refusal

# The exchange's clock.
EDGE = 1.5  # s by which a `Date` may differ from the clock that counts: edge servers differ
DRIFT = 1e-4  # s per s by which two clocks may drift apart
DRIFT_EVERY = 1.0  # s between two widenings of the interval, at least

# The forecast of others.
SLOT = 5.0  # s: the resolution of a curve
CHANCE = 2.0  # standard deviations by which others may use less than before without being late
LATE = 20.0  # s by which an expected use may be late; after that we no longer expect it
UNSEEN = 0.25  # part of the time after our first count in which earlier use may still be late
OFTEN = 0.9  # for the last slot we keep the use that this part of all slots did not exceed
NEARLY = 11  # slots, 55 s: a client that comes once a minute comes at most once in them
SURPRISE = 0.04  # share by which use in a slot exceeds what earlier minutes explain: a surprise
SURPRISED = 2  # minutes in which we leave others room at any second after a surprise
