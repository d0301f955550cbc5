"""Every number of the decision core: what it means, and what it protects from.

The rule of this file: it has numbers and nothing else. "Share" is a share of the limit.
"""

FLIGHT = 10.0  # s after its charge by which the exchange counts a request, if at all
PATIENCE = 2.0  # s after its charge in which a request may be written without another check
TRAVEL = FLIGHT - PATIENCE  # s after the write by which the exchange counts a request, if at all
LAG = 1.0  # s: the count of a request contains the weight of all that were sent so much earlier
PROBE_PATIENCE = 1.0  # s for which other requests wait for the answer to a probe
CLOSING = 0.25  # s before the end of a full minute at which the last probe goes
PROBE_PAUSE = 1.0  # s between two probes of one minute, at least
UNSEEN_AT_ONCE = 24  # weight under way before a minute's first count: 1 % of 2400, our reserve
PROBES = 0.01  # share that probes of a minute reserved for others may use
SPARING = 4  # times as rarely do we probe without a past of others and with too little room
OF_THE_REST = 0.25  # of the time left: if only the margin is missing, a probe comes after it
FROM_RESERVE = 0.5  # of the reserve, for probes of a full minute before the last one
FORECAST_AGE = 0.25  # s for which a forecast stays valid while others send nothing
POLL = 0.02  # s after which another process may have changed the answer
LEAST_WAIT = 0.001  # s: no wait is shorter, or the queue would spin
SIGMA = 4.0  # standard deviations kept free for chance: we decide many times a minute
UNDECIDED = 8  # entries of undecided weight in a minute
MEMORY = 5  # minutes for which we remember others
CONTRADICTIONS = 3  # contradicting `Date`s in a row before we trust them
AT_ONCE = 0.5  # share that a client without knowledge sends at once: two may start together
IDLE = 10  # minutes without an answer until our knowledge expires; others return by then
OURS = 0.05  # share that others are expected to leave us and our probes, whatever they used before
GROWS = 0.05  # share by which our part grows each minute beside a possible copy of us
FAIR = 0.5  # share up to which our part grows: two copies get a half each
PACE = 1 / 40  # share that we send in a second beside others who use more than `FAIR`
EARLY = 15.0  # s: others who with us use up a minute by then may be copies; 38/s does not
WHOLE = 0.75  # share that counts as using up a minute: copies keep room for each other
SINGLE_LEAST = 0.01  # share kept for single calls: a bot that starts has only a few
SINGLE_GROWS = 2  # times the single calls of a minute are kept in the next ones: they may grow
RELEASE = 5.0  # s before the end of a minute in which bulk work gets what single calls left
BLIND_AFTER = 10  # answers in a row without a usable count, then we rely on our books alone
BLIND_FOR = 20.0  # s since the last count, before such answers matter: rare counts are used
BLIND_RESERVE = 0.09  # share kept free while we rely on our books alone
NEGLIGIBLE_WEIGHT = 2  # weight of others that does not matter, such as a ping
NEGLIGIBLE_SHARE = 0.001  # share that does not matter, if that is more
SLACK = 0.02  # share by which two nodes' counts of one moment may differ
HIDING = 0.125  # of the room: our weight under way may hide as much of what others use
CROWD = 1 / 32  # the same beside several copies of us, each of which may hide as much
LOWEST = 0.1  # share of the announced limit: a refusal at a lower count has another reason
DISTRUST = 75  # minutes for which we obey a lower limit or a rolling window: a ban and an hour

SURGE_LEAST = 0.25  # share that others are expected to need after a refusal
SURGE_MOST = 0.5  # the same after several refusals
SURGE_GROWS = 2  # times as much is expected after each further refusal
SURGE_FADES = 0.5  # of it remains after a whole minute without a refusal

EDGE = 1.5  # s by which a `Date` may differ from the clock that counts: edge servers differ
DRIFT = 1e-4  # s per s by which two clocks may drift apart
DRIFT_EVERY = 1.0  # s between two widenings of the interval, at least

SLOT = 5.0  # s: the resolution of a curve
CHANCE = 2.0  # standard deviations by which others may be behind without being late
LATE = 20.0  # s by which an expected use may be late; after that we no longer expect it
UNSEEN = 0.25  # of the time after our first count, in which we still expect earlier use
