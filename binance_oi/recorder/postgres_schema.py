"""The tables of a recording in PostgreSQL, its version, and its months.

The rule of this file: it says what a recording contains and how a recorder locks it, and nothing
else about readers or writers. The tables have the columns of those in a file (see `schema`), and
are in the first schema of the connection's ``search_path``. A number is `numeric` without
precision, which keeps every digit and every zero that the exchange wrote. A time is in Unix ms, as
in a file.

The table of samples has one partition for each month, so that a keeper can drop an old month at
once. It is partitioned from the beginning, because PostgreSQL cannot partition a table later. There
is no default partition: to attach another partition, PostgreSQL would lock the default one. So a
new month would have to wait until no program reads the default partition.
"""

from collections.abc import Iterable
from datetime import UTC, datetime

from binance_oi.errors import RecordingError
from binance_oi.recorder.statements import Statements
from binance_oi.times import instant, unix_ms

VERSION = 1
CHANNEL = "binance_oi"  # the channel of NOTIFY; the payload is the slot of a sweep, Unix ms
LOCK = 0x624F4931  # "bOI1": the first of the two numbers of our advisory locks

FIRST_YEAR, LAST_YEAR = 2000, 2100  # one partition has all earlier samples, one all later ones

SCHEMA: tuple[str, ...] = (
    """
CREATE TABLE samples (
    symbol text COLLATE "C" NOT NULL,
    time bigint NOT NULL,
    open_interest numeric NOT NULL,
    received bigint NOT NULL,
    mark_price numeric,
    PRIMARY KEY (symbol, time)
) PARTITION BY RANGE (time)
""",
    # The primary key begins with the symbol. This index finds the samples of all symbols by time.
    "CREATE INDEX samples_time ON samples USING brin (time) WITH (autosummarize = on)",
    f"CREATE TABLE samples_before_{FIRST_YEAR} PARTITION OF samples FOR VALUES FROM (MINVALUE)"
    f" TO ({unix_ms(datetime(FIRST_YEAR, 1, 1, tzinfo=UTC))})",
    f"CREATE TABLE samples_after_{LAST_YEAR} PARTITION OF samples FOR VALUES"
    f" FROM ({unix_ms(datetime(LAST_YEAR + 1, 1, 1, tzinfo=UTC))}) TO (MAXVALUE)",
    "CREATE VIEW samples_utc AS SELECT *, to_timestamp(time / 1000.0) AS at FROM samples",
    """
CREATE TABLE sweeps (
    slot bigint PRIMARY KEY,
    period bigint NOT NULL,
    started bigint NOT NULL,
    finished bigint NOT NULL,
    asked bigint NOT NULL,
    read bigint NOT NULL,
    new bigint NOT NULL,
    weight bigint NOT NULL
)
""",
    """
CREATE TABLE gaps (
    symbol text COLLATE "C" NOT NULL,
    first bigint NOT NULL,
    last bigint NOT NULL,
    period bigint NOT NULL,
    reason text NOT NULL,
    detail text NOT NULL,
    PRIMARY KEY (symbol, first)
)
""",
    """
CREATE TABLE past (
    symbol text COLLATE "C" NOT NULL,
    time bigint NOT NULL,
    source bigint NOT NULL,
    open_interest numeric NOT NULL,
    notional numeric,
    circulating_supply numeric,
    PRIMARY KEY (symbol, time, source)
)
""",
    """
CREATE TABLE pruned (
    day bigint NOT NULL,
    reason text COLLATE "C" NOT NULL,
    slots bigint NOT NULL,
    last bigint NOT NULL,
    rows bigint NOT NULL,
    PRIMARY KEY (day, reason)
)
""",
    'CREATE TABLE about (name text COLLATE "C" PRIMARY KEY, value text NOT NULL)',
    "CREATE TABLE recording (version int NOT NULL)",
    f"INSERT INTO recording VALUES ({VERSION})",
)

NAMESPACE = "SELECT oid FROM pg_namespace WHERE nspname = current_schema()"
_TABLES = (
    f"SELECT relname FROM pg_class WHERE relnamespace = ({NAMESPACE}) AND relkind IN ('r', 'p')"
    " AND relname IN ('recording', 'samples', 'sweeps', 'gaps', 'past', 'pruned', 'about')"
)
_ATTACHED = (
    "SELECT 1 FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid"
    f" WHERE relnamespace = ({NAMESPACE}) AND relname = ?1"
)
_PARTITIONS = (
    "SELECT relname::text FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid"
    f" WHERE relnamespace = ({NAMESPACE}) AND relname ~ '^samples_[0-9]{{4}}_[0-9]{{2}}$'"
)
_HAS_SCHEMA = "SELECT current_schema() IS NOT NULL"
# The second number of a lock stands for the schema, so a database may hold several recordings.
LOCK_ID = f"{LOCK}, (({NAMESPACE})::bigint - 2147483648)::int"
TRY_LOCK: str = f"SELECT pg_try_advisory_lock({LOCK_ID})"
LOCK_WHEN_FREE: str = f"SELECT pg_advisory_lock({LOCK_ID})"
HOLDER: str = f"""
SELECT pid, application_name, client_addr::text FROM pg_locks JOIN pg_stat_activity USING (pid)
WHERE locktype = 'advisory' AND classid::bigint = {LOCK} AND granted
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND objid::bigint = ((({NAMESPACE})::bigint - 2147483648) & 4294967295)
"""

# The server process that holds the lock. Another server may have a process of the same number, so
# the query also returns when this server started.
LOCKED_BY: str = f"SELECT pid, pg_postmaster_start_time()::text FROM ({HOLDER}) AS holder"


def check_schema(run: Statements, name: str) -> None:
    """Check that the search path names a schema that exists; the lock and the tables need one.

    Raises:
        RecordingError: The search path names no such schema.
    """
    if not run.execute(_HAS_SCHEMA).fetchone()[0]:
        raise RecordingError(f"{name} has no schema for this user: set its search_path")


def check_version(run: Statements, name: str) -> int:
    """Return the version of the recording in the schema; 0 if none of its tables exists.

    Raises:
        RecordingError: The tables belong to another program, or have another version; or the
            connection has no schema.
    """
    check_schema(run, name)
    found = {table for (table,) in run.execute(_TABLES).fetchall()}
    if not found:
        return 0
    if "recording" not in found:
        tables = ", ".join(sorted(found))
        raise RecordingError(
            f"{name} is not a recording: it has other tables of these names: {tables}"
        )
    versions = [version for (version,) in run.execute("SELECT version FROM recording").fetchall()]
    if versions != [VERSION]:
        what = ", ".join(map(str, versions)) or "no version"
        raise RecordingError(f"{name} has version {what}; this program reads {VERSION}")
    return VERSION


def read_source(run: Statements) -> str | None:
    """Return the name of the recorded exchange; None if the recording does not contain it."""
    row = run.execute("SELECT value FROM about WHERE name = 'source'").fetchone()
    return None if row is None else str(row[0])


Month = tuple[int, int]


def months_of(times: Iterable[int]) -> set[Month]:
    """Return the months (year, month) that need a partition for samples of these times, Unix ms.

    Times before `FIRST_YEAR` or after `LAST_YEAR` need none, because their partitions always exist.
    """
    ends = [unix_ms(datetime(year, 1, 1, tzinfo=UTC)) for year in (FIRST_YEAR, LAST_YEAR + 1)]
    days = {time // 86_400_000 for time in times if ends[0] <= time < ends[1]}
    return {(day.year, day.month) for day in (instant(day * 86_400_000) for day in days)}


def after(month: Month) -> Month:
    """Return the month after `month`."""
    year, number = month
    return (year + 1, 1) if number == 12 else (year, number + 1)


def partition(month: Month) -> str:
    """Return the name of a month's partition, such as ``samples_2026_11``."""
    return f"samples_{month[0]}_{month[1]:02}"


def ends_of(month: Month) -> tuple[int, int]:
    """Return the beginning of a month and the beginning of the next month, Unix ms."""
    begin, end = (datetime(*each, 1, tzinfo=UTC) for each in (month, after(month)))
    return unix_ms(begin), unix_ms(end)


def months(run: Statements) -> list[Month]:
    """Return the months that have a partition, the oldest first."""
    found = [name for (name,) in run.execute(_PARTITIONS).fetchall()]
    return sorted((int(name[8:12]), int(name[13:15])) for name in found)


def make_month(run: Statements, month: Month) -> None:
    """Create the partition of a month if it is missing, within the caller's transaction.

    ``CREATE TABLE ... PARTITION OF`` would wait for every program that reads or writes samples. So
    we create a table and attach it, which waits for no such program.
    """
    name = partition(month)
    if run.execute(_ATTACHED, (name,)).fetchone() is not None:
        return
    begin, end = ends_of(month)
    run.execute(f"CREATE TABLE {name} (LIKE samples INCLUDING ALL)")
    run.execute(f"ALTER TABLE samples ATTACH PARTITION {name} FOR VALUES FROM ({begin}) TO ({end})")
