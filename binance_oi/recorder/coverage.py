"""SQL about sweeps, gaps and failed symbols. A slot is a time at which a sweep was due.

The rule of this file: the same statements run in SQLite and in PostgreSQL, so both count slots in
the same way. ``?1`` (included) and ``?2`` (excluded) bound a span of slots, Unix ms. But in `GAPS`,
``?1`` is the symbol.
"""

from binance_oi.recorder.statements import larger, smaller

SWEEP: tuple[str, ...] = (
    *("slot", "period", "started", "finished", "asked", "read", "new", "weight"),
)
"""The columns of a sweep; `Sweep` has fields of the same names."""

SPAN: str = """
SELECT min(slot), max(slot) FROM (
    SELECT slot FROM sweeps
    UNION ALL SELECT first FROM gaps WHERE symbol = ''
    UNION ALL SELECT last FROM gaps WHERE symbol = '' AND last >= first
) AS known HAVING count(*) > 0
"""
SWEEPS: str = f"SELECT {', '.join(SWEEP)} FROM sweeps WHERE slot >= ?1 AND slot < ?2 ORDER BY slot"
GAPS: str = "SELECT first, last, reason, detail FROM gaps WHERE symbol = ?1 ORDER BY first"

PERIODS: str = """
SELECT symbol, first, last, reason, detail, period FROM gaps ORDER BY first, symbol
"""
MERGED: str = "SELECT 1 FROM about WHERE name = 'merged'"
COPYING: str = "SELECT value FROM about WHERE name = 'copying'"
PRUNED_UNTIL: str = "SELECT CAST(value AS BIGINT) FROM about WHERE name = 'pruned until'"
PRUNED: str = "SELECT day, reason, slots, last, rows FROM pruned ORDER BY day, reason"

_AFTER_START = larger("0", "(?1 - first + period - 1) / period")
# Finds each gap, its period, and the number of its slots without a sweep. If gaps overlap, a slot
# counts once: a gap counts only slots after the end of all gaps that begin before it. Each gap has
# its own period, because a recorder may continue a recording with another period. A gap with an
# impossible period counts no slots. A gap that ends before it begins is empty; it belongs to the
# span if its `first` does.
COUNTED: str = f"""
WITH gap AS (
    SELECT first, last, reason, detail, CASE WHEN period > 0 THEN period END AS period, coalesce(
        max(last) OVER (ORDER BY first ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING),
        first - 1
    ) AS before FROM gaps WHERE symbol = ''
), inside AS (
    SELECT reason, detail, period, before,
        first + coalesce(({_AFTER_START}) * period, 0) AS first,
        CASE WHEN last < ?2 THEN last
            ELSE coalesce(first + (?2 - 1 - first) / period * period, ?2 - 1) END AS last
    FROM gap WHERE first < ?2 AND (first >= ?1 OR last >= ?1)
), part AS (
    SELECT first, last, reason, detail, period,
        first + ({larger("0", "(before - first + period) / period")}) * period AS due FROM inside
)
SELECT first, last, reason, detail, coalesce(period, 0) AS period, CASE WHEN due <= last THEN
    (last - due) / period + 1 - (
        SELECT count(*) FROM sweeps
        WHERE slot BETWEEN due AND last AND (slot - due) % part.period = 0
    )
ELSE 0 END AS slots FROM part ORDER BY first
"""
MISSED: str = f"SELECT CAST(coalesce(sum(slots), 0) AS BIGINT) FROM ({COUNTED}) AS counted"
# Counts, for each symbol and reason, the sweeps that could not read the symbol.
FAILED: str = f"""
WITH part AS (
    SELECT symbol, reason, period, {smaller("last", "?2 - 1")} AS ends,
        first + ({_AFTER_START}) * period AS begins
    FROM gaps WHERE symbol != '' AND period > 0
)
SELECT symbol, reason, CAST(sum((ends - begins) / period + 1) AS BIGINT) AS sweeps FROM part
WHERE begins <= ends GROUP BY symbol, reason ORDER BY sweeps DESC, symbol
"""
