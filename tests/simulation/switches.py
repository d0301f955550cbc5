"""The mechanisms of the core that `ablation` can switch off, one by one.

Rule of this file: it has only data. `old` occurs exactly once in its module. With `new` in its
place, the mechanism does nothing.
"""

from typing import NamedTuple


class Switch(NamedTuple):
    """A number or mechanism, and the change that switches it off."""

    name: str
    module: str
    old: str
    new: str


OTHERS, BUCKET, PROBING = "budget/others.py", "budget/bucket.py", "budget/probing.py"
LEARNING, KNOWLEDGE = "budget/learning.py", "budget/knowledge.py"
ADMISSION, TUNING, LEDGER = "budget/admission.py", "budget/tuning.py", "budget/ledger.py"
ATTRIBUTION, CLOCK = "budget/attribution.py", "budget/server_clock.py"

SWITCHES = (
    Switch("a minute seen in part", OTHERS, "if whole and not curve.whole:", "if False:"),
    Switch("use before the first count", OTHERS, "before = max(before, curve.base)", "pass"),
    Switch(
        "others who are late",
        OTHERS,
        "rest = due + late",
        "rest = due",
    ),
    Switch("others at any second", OTHERS, "if is_surprising(past, curve):", "if False:"),
    Switch("only after a surprise", OTHERS, "if is_surprising(past, curve):", "if True:"),
    Switch(
        "once a minute, no second burst",
        OTHERS,
        "need = min(need, _in_busiest(ONCE_A_MINUTE_SLOTS, used) - others)",
        "pass",
    ),
    Switch("rarely in the last slot", OTHERS, "    if rest == 1:\n", "    if False:\n"),
    Switch(
        "no room at any second for copies",
        OTHERS,
        "> USED_UP / 2 * current.fastest * MINUTE:",
        "> math.inf:",
    ),
    Switch("others who stopped", OTHERS, "rest -= min(rest", "rest -= 0.0 * min(rest"),
    Switch("going on beside a past", OTHERS, "if others > known or not whole:", "if not whole:"),
    Switch("going on", OTHERS, "most = max(most, rest_if_steady(current, into, others))", "pass"),
    Switch(
        "going on as last seen",
        OTHERS,
        "return max(rate * (MINUTE - into), held)",
        "return rate * (MINUTE - into)",
    ),
    Switch(
        "calm rate of a past minute",
        OTHERS,
        "rate = curve.calm if curve.until - curve.since > LATE / 2 else curve.rate",
        "rate = curve.rate",
    ),
    Switch(
        "ours under way hide theirs",
        OTHERS,
        "minute.others + (0 if past else minute.under_way)",
        "minute.others",
    ),
    Switch(
        "spread of a young rate",
        OTHERS,
        "spread = 1.0 if past else MINUTE / max(1.0, curve.until)",
        "spread = 1.0",
    ),
    Switch("chance in a forecast", OTHERS, "SIGMA * math.sqrt(need * spread)", "0.0"),
    Switch("the surge", OTHERS, "surge = self.expected_surge - minute.others", "surge = 0"),
    Switch(
        "an eighth in flight",
        ADMISSION,
        "return minute.under_way + ask.weight > most",
        "return False",
    ),
    Switch(
        "the unseen before the room",
        ADMISSION,
        "if not fits and known.unseen(ask.now, k) > room:",
        "if False:",
    ),
    Switch(
        "the part that is ours",
        ADMISSION,
        "if fits or (not crowded and _is_our_part(ask, known)):",
        "if fits:",
    ),
    Switch(
        "the count that was refused",
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
        "slowly beside copies",
        ADMISSION,
        "    if not (_keeps_room(ask, known) and is_busy):\n",
        "    if True:\n",
    ),
    Switch(
        "fewer under way beside copies",
        ADMISSION,
        "CROWD if known.is_in_a_crowd(k - 1) else HIDING",
        "HIDING",
    ),
    Switch(
        "copies leave the reserve", PROBING, "    if known.is_in_a_crowd(k):  #", "    if False:  #"
    ),
    Switch(
        "copies never exceed the limit",
        KNOWLEDGE,
        "return busiest if most <= self.limit else 0.0",
        "return busiest",
    ),
    Switch("room for our probes", ADMISSION, "return need, margin + probes", "return need, margin"),
    Switch(
        "bearable before the likeliest",
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
        "Wait(max((ours - most) / rate, POLL), Reason.CAUTION) if ours > most else None",
        "None",
    ),
    Switch("rare counts are waited for", KNOWLEDGE, "BLIND_AFTER - is_count_recent", "BLIND_AFTER"),
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
        "few before the first count",
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
        "a heavy probe leaves the rest",
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
    Switch("half of the rest", PROBING, "probe = min(probe, (left - since) / 2)", "pass"),
    Switch(
        "what is undecided",
        PROBING,
        "decided = minute.undecided[0][0] - ask.now if minute.undecided else left",
        "decided = left",
    ),
    Switch("few probes without a past", PROBING, "pause *= SPARING", "pass"),
    Switch(
        "a third of the rest",
        PROBING,
        "pause = min(pause, OF_THE_REST * (left + since))",
        "pass",
    ),
    Switch(
        "the closing probe",
        PROBING,
        "return min(wait, closing) if closing + since > 0.0 else wait",
        "return wait",
    ),
    Switch("the last probe moves", PROBING, " - clock.max_error * (k % 3) / 2", ""),
    Switch(
        "reported twice when alone", PROBING, "if k > known.others.expected_until:", "if False:"
    ),
    Switch(
        "others that were the next minute's",
        LEARNING,
        "before.others = 0",
        "pass",
    ),
    Switch(
        "only whole minutes forgive",
        LEARNING,
        "before.reported and was_whole",
        "before.reported",
    ),
    Switch(
        "near the rollover others are asked for again",
        LEARNING,
        "if known.counted_at == UNKNOWN and theirs > known.negligible:",
        "if False:",
    ),
    Switch(
        "nobody until our last count",
        LEARNING,
        "if not curve.heights and known.counted_at != UNKNOWN:",
        "if False:",
    ),
    Switch(
        "only exact heights are drawn",
        LEARNING,
        "if is_exact or others.past(k) or minute.others >= curve.rate * into:",
        "if True:",
    ),
    Switch(
        "surge doubles", LEARNING, "SURGE_GROWS * others.expected_surge", "others.expected_surge"
    ),
    Switch(
        "surge of the first refusal",
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
    Switch("quiet before giving back", LEDGER, "and sent >= counted_at + LAG", ""),
    Switch("eight moments undecided", LEDGER, "or len(undecided) >= UNDECIDED", ""),
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
