"""Every number of the decision core: what it protects from, and how it was found."""

FLIGHT = 10.0  # s: a request can be counted this long after its charge
PATIENCE = 2.0  # s: it is sent this long after its charge; later only if more is booked
TRAVEL = FLIGHT - PATIENCE  # s: it is counted this long after it was sent, if at all
LAG = 1.0  # s: an answer sent this long after another one contains its weight for certain
PROBE_PATIENCE = 1.0  # s: how long the others wait for the answer to a probe
CLOSING = 0.25  # s before its end that a full minute is probed once more
PROBE_PAUSE = 1.0  # s between probes while only the forecast is in the way, at the least
PROBES = 0.01  # share of the limit that these probes may use in a minute
SPARING = 4  # times as rare is a probe where we have no past of others, and too little room
OF_THE_REST = 0.25  # of the time that was left: then a probe comes if only the margin is missing
FROM_RESERVE = 0.5  # of the reserve, for probes of a full minute before the last one
FORECAST_AGE = 0.25  # s for which a forecast stands, if others rest
POLL = 0.02  # s: how soon another process may have changed the answer
LEAST_WAIT = 0.001  # s: no wait is shorter, or the queue would spin
SIGMA = 4.0  # standard deviations kept free: we ask many times a minute
UNDECIDED = 8  # moments that a minute keeps apart
MEMORY = 5  # minutes for which others are remembered
CONTRADICTIONS = 3  # `Date`s in a row that contradict all that is known, before they are believed
FIRST_SHARE = 0.33  # share of the limit for a client that starts near a rollover
NEWCOMER = 1 / 1200  # share of the limit that others may have used before a count shows it
OURS = 0.05  # share of the limit that others are expected to leave us, whatever they used before
GROWS = 0.05  # share of the limit by which our part grows a minute beside what may be a copy
FAIR = 0.5  # share of the limit up to which it grows: two copies
PACE = 1 / 40  # share of the limit that we send in a second beside others who use more than `FAIR`
EARLY = 15.0  # s: whoever used up a minute by then, with us, may be a copy of us; 38/s is not
WHOLE = 0.75  # share of the limit that is as good as all of it: copies keep room for each other
SINGLE_LEAST = 0.01  # share of the limit kept for single calls: a bot that just starts has few
SINGLE_GROWS = 2  # times what they used of a minute is kept in the next ones, as their use grows
RELEASE = 5.0  # s before its end in which bulk work gets what single calls did not use
BLIND_AFTER = 10  # answers in a row without a usable count, then we rely on our books alone
BLIND_RESERVE = 0.1  # share of the limit kept free while we rely on our books alone
FEW = 2  # weight of others that means nothing, such as a ping
FEW_SHARE = 0.001  # share of the limit that means nothing, if that is more
SLACK = 0.02  # share of the limit by which two counts may differ, and mean the same
HIDING = 0.125  # of the room: ours under way may hide as much of what others use meanwhile
CROWD = 1 / 32  # the same beside more than one copy of us: each of them may hide as much
TOO_SOON = 0.1  # s: a count that comes sooner after a rollover tells no rate

SURGE_LEAST = 0.25  # share of the limit that others are expected to need after a refusal
SURGE_MOST = 0.5  # the same after many
SURGE_GROWS = 2  # times as much after another one
SURGE_FADES = 0.5  # of it stays after a whole minute that went well

EDGE = 1.5  # s: how far a `Date` header may be from the clock that counts (edge servers differ)
DRIFT = 1e-4  # s per s that two clocks may drift apart
DRIFT_EVERY = 1.0  # s: the interval is widened no more often

SLOT = 5.0  # s of a curve
CHANCE = 2.0  # standard deviations by which they may be behind without being late
LATE = 20.0  # s that a use may be late before it is not expected any more
SOONEST = 0.25  # s: what others used sooner than this was used within this
UNSEEN = 0.25  # of the rest of a minute: as long, room is kept for what came before our first count
