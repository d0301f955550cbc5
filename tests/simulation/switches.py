"""The mechanisms of the core that `ablation` can switch off, one by one.

Rule of this file: it has only data. `old` occurs exactly once in its module. With `new` in its
place, the mechanism does nothing, or the number has another value. A name says what the mechanism
does, or the other value. In the names, copies are other clients of this library.
"""

from typing import NamedTuple


class Switch(NamedTuple):
    """A mechanism or a number, and the change that switches it off or alters it."""

    name: str
    module: str
    old: str
    new: str


OTHERS, BURSTS = "budget/others.py", "budget/bursts.py"
BUCKET, PROBING = "budget/bucket.py", "budget/probing.py"
LEARNING, KNOWLEDGE = "budget/learning.py", "budget/knowledge.py"
ADMISSION, TUNING, LEDGER = "budget/admission.py", "budget/tuning.py", "budget/ledger.py"
ATTRIBUTION, CLOCK = "budget/attribution.py", "budget/server_clock.py"

SWITCHES = (
    Switch("what came in each minute", OTHERS, "min(rests) if bursts and", "0.0 if bursts and"),
    Switch("what came in an earlier minute", OTHERS, "whole else max(rests)", "whole else 0.0"),
    Switch(
        "the mean rate so far", OTHERS, "rests += [min(others / max(into, 1.0)", "rests += [min(0.0"
    ),
    Switch(
        "the rate of an earlier count",
        OTHERS,
        "curve.fastest) * left, held]",
        "curve.fastest) * left]",
    ),
    Switch("a margin for chance", OTHERS, "SIGMA * math.sqrt(varies * spread)", "0.0"),
    Switch("a minute seen in part", OTHERS, "in whole or [each", "in [each"),
    Switch("use before the first count", OTHERS, "each.seen() for each in", "each for each in"),
    Switch("others that come late", OTHERS, " + max(0.0, late)", ""),
    Switch("room for bursts", OTHERS, "else find_bursts(row, limit)", "else []"),
    Switch("no burst before it is due", BURSTS, "    if gap:\n", "    if False:\n"),
    Switch("one gap, if it is long", BURSTS, " and gaps[0] <= 2 * LATE / SLOT", ""),
    Switch("once a minute, no second burst", BURSTS, "if gap >= SLOTS - 1:", "if False:"),
    Switch("use as in any 60 s", BURSTS, "return max(0.0, min(room, bound))", "return room"),
    Switch("a burst that goes on", BURSTS, "if now < last.end + 1 else 0.0", "if False else 0.0"),
    Switch("no room for bursts of copies", OTHERS, "[] if _are_heavy(whole, limit) else ", ""),
    Switch("steady others that are new", OTHERS, "in (curve, self.curve(k - 1, limit))", "in ()"),
    Switch("the mean rate without bursts", OTHERS, " / SLOT, even_rate(row, limit)", " / SLOT"),
    Switch(
        "our weight under way hides others' use",
        OTHERS,
        "minute.others + (0 if past else minute.under_way)",
        "minute.others",
    ),
    Switch(
        "a larger margin for a rate that was seen briefly",
        OTHERS,
        "spread = 1.0 if past else MINUTE / max(1.0, curve.until)",
        "spread = 1.0",
    ),
    Switch(
        "a surge after refusals",
        OTHERS,
        "max(latest.need, self.expected_surge - minute.others)",
        "latest.need",
    ),
    Switch(
        "a bound on our weight under way",
        ADMISSION,
        "return minute.under_way + ask.weight > most",
        "return False",
    ),
    Switch(
        "a wait while unseen use may fill the room",
        ADMISSION,
        "if not fits and known.unseen(ask.now, k) > room:",
        "if False:",
    ),
    Switch(
        "a part of our own beside others",
        ADMISSION,
        "if fits or (not crowded and _is_our_part(ask, known)):",
        "if fits:",
    ),
    Switch(
        "one request at a time above a refused count",
        ADMISSION,
        "Probe() if 0 < known.others.refused_count < minute.used + ask.weight else None",
        "None",
    ),
    Switch("room for single calls", ADMISSION, "    if not ask.bulk:\n", "    if True:\n"),
    Switch(
        "our part grows beside a copy",
        ADMISSION,
        "    if known.weight_of_copies(k - 1):\n",
        "    if False:\n",
    ),
    Switch(
        "slow sending beside copies",
        ADMISSION,
        "    if not (_keeps_room(ask, known) and is_busy):\n",
        "    if True:\n",
    ),
    Switch(
        "fewer under way beside copies",
        ADMISSION,
        "CROWD if known.is_in_a_crowd(ask.likeliest - 1) else HIDING",
        "HIDING",
    ),
    Switch(
        "a part of the reserve that copies leave",
        PROBING,
        "    if known.is_in_a_crowd(k):  #",
        "    if False:  #",
    ),
    Switch(
        "others above the limit are no copies",
        KNOWLEDGE,
        "return busiest if most <= limit else 0.0",
        "return busiest",
    ),
    Switch(
        "others that send as copies probe",
        KNOWLEDGE,
        "is_probing = curve.top > OURS * limit",
        "is_probing = False",
    ),
    Switch("room for our probes", ADMISSION, "return need, most + probes", "return need, most"),
    Switch(
        "a possible earlier minute stays within the limit",
        ADMISSION,
        "if k < ask.likeliest and not",
        "if False and not",
    ),
    Switch(
        "a probe of a full minute",
        ADMISSION,
        "if wait <= 0.0:\n            return Probe()\n    if known",
        "if False:\n            return Probe()\n    if known",
    ),
    Switch(
        "a start is careful",
        ADMISSION,
        "Wait(max(wait, POLL), Reason.CAUTION) if wait > 0.0 else None",
        "None",
    ),
    Switch(
        "not blind soon after a count", KNOWLEDGE, "BLIND_AFTER - is_count_recent", "BLIND_AFTER"
    ),
    Switch("a lower limit", LEARNING, "known.lower(used - 1, minute)", "pass"),
    Switch(
        "a count that falls",
        LEARNING,
        "if used < minute.reported and _falls(known, receipt, minute, k, used):",
        "if False:",
    ),
    Switch(
        "a refusal that the minute before explains",
        LEARNING,
        "if is_proved and used is not None and _is_minute_before(known, now, minute, used):",
        "if False:",
    ),
    Switch(
        "little weight before the first count of a minute",
        ADMISSION,
        "Wait(POLL, Reason.PROBE_PENDING, PROBE_PAUSE) if is_much else None",
        "None",
    ),
    Switch(
        "a probe first beside others",
        ADMISSION,
        "is_alone = before.reported > 0 and ask.likeliest > known.others.expected_until",
        "is_alone = before.reported > 0",
    ),
    Switch(
        "a heavy probe leaves room for others",
        PROBING,
        "    if ask.weight > known.negligible:",
        "    if False:",
    ),
    Switch(
        "a start leaves single calls their part",
        ADMISSION,
        "ask.weight + left * _part_of_single_calls(ask, known)",
        "ask.weight",
    ),
    Switch(
        "a probe after half of the time left",
        PROBING,
        "probe = min(probe, (left - since) / 2)",
        "pass",
    ),
    Switch(
        "a probe when undecided weight can be decided",
        PROBING,
        "decided = minute.undecided[0][0] - ask.now if minute.undecided else left",
        "decided = left",
    ),
    Switch("fewer probes without an earlier minute", PROBING, "pause *= SPARING", "pass"),
    Switch(
        "a probe after a quarter of the time left",
        PROBING,
        "pause = min(pause, OF_THE_REST * (left + since))",
        "pass",
    ),
    Switch(
        "a last probe just before the minute ends",
        PROBING,
        "return min(wait, closing) if closing + since > 0.0 else wait",
        "return wait",
    ),
    Switch("the last probe at different times", PROBING, " - error * (k % 3) / 2", ""),
    Switch(
        "undecided weight counts once when alone",
        PROBING,
        "if k > known.others.expected_until:",
        "if False:",
    ),
    Switch(
        "others' use assigned to the minute before",
        LEARNING,
        "before.others = 0",
        "pass",
    ),
    Switch(
        "only minutes without a cooldown lower the surge",
        LEARNING,
        "before.reported and was_whole",
        "before.reported",
    ),
    Switch(
        "others in a first count near the rollover",
        LEARNING,
        "if known.counted_at == UNKNOWN and theirs > known.negligible:",
        "if False:",
    ),
    Switch(
        "no use by others until our last count",
        LEARNING,
        "if not curve.heights and known.counted_at != UNKNOWN:",
        "if False:",
    ),
    Switch(
        "only exact counts enter the curve",
        LEARNING,
        "if is_exact or others.past(k) or minute.others >= curve.rate * into:",
        "if True:",
    ),
    Switch(
        "each refusal enlarges the surge",
        LEARNING,
        "SURGE_GROWS * others.expected_surge",
        "others.expected_surge",
    ),
    Switch(
        "a surge from the first refusal on",
        LEARNING,
        "least, most = int(SURGE_LEAST",
        "least, most = int(0.0",
    ),
    Switch(
        "the count tells the minute",
        ATTRIBUTION,
        "k = _by_count(known, receipt, used, first)",
        "k = None",
    ),
    Switch("the count narrows the clock", LEARNING, "if proved is not None:", "if False:"),
    Switch("no weight given back soon after a count", LEDGER, "and sent >= counted_at + LAG", ""),
    Switch("a bound on the list of undecided weight", LEDGER, "or len(undecided) >= UNDECIDED", ""),
    Switch(
        "fast path",
        BUCKET,
        "first == last > known.others.expected_until\n",
        "False and first == last > known.others.expected_until\n",
    ),
    Switch("drift", TUNING, "DRIFT = 1e-4", "DRIFT = 0.0"),
    Switch("contradictions", TUNING, "CONTRADICTIONS = 3", "CONTRADICTIONS = 1"),
    Switch("memory of two minutes", TUNING, "MEMORY = 5", "MEMORY = 2"),
    Switch("chance of being late", TUNING, "CHANCE = 2.0", "CHANCE = 0.0"),
    Switch("late is 10 s", TUNING, "LATE = 20.0", "LATE = 10.0"),
    Switch("our part without its probes", ADMISSION, "(OURS - PROBES)", "OURS"),
    Switch("slot of 10 s", TUNING, "SLOT = 5.0", "SLOT = 10.0"),
    Switch("sigma of 2", TUNING, "SIGMA = 4", "SIGMA = 2"),
    Switch("closing at 1 s", TUNING, "CLOSING = 0.25", "CLOSING = 1.0"),
    Switch("probe pause of 2 s", TUNING, "PROBE_PAUSE = 1.0", "PROBE_PAUSE = 2.0"),
    Switch("probes of 2 %", TUNING, "PROBES = 0.01", "PROBES = 0.02"),
    Switch("patience of 3 s", TUNING, "PROBE_PATIENCE = 1.0", "PROBE_PATIENCE = 3.0"),
    Switch("lag of 0 s", TUNING, "LAG = 1.0", "LAG = 0.0"),
    Switch("edge of 0.5 s", TUNING, "EDGE = 1.5", "EDGE = 0.5"),
    Switch("flight of 5 s", TUNING, "FLIGHT = 10.0", "FLIGHT = 5.0"),
)
