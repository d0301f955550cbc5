"""No test of the default run depends on how fast the machine is.

Rule of this file: each bound on real time that `search` finds in a test or example is an error,
unless `ALLOWED` excuses it.
"""

import tomllib

import pytest

from support import ROOT
from support.real_time import PATIENCE_S, search

SEARCHED = [
    *(path for path in sorted((ROOT / "tests").rglob("*.py")) if "benchmarks" not in path.parts),
    *sorted((ROOT / "examples").glob("*.py")),
]
# (file, function, kind): the reason. An empty name of a function stands for the whole file.
ALLOWED = {
    (
        "tests/fuzz/__main__.py",
        "_batch",
        "timeout",
    ): "`nox -s fuzz`: a timeout is one of its outcomes",
    ("tests/fuzz/soak.py", "size_at_rest", "sleep"): "`nox -s soak` measures memory at rest",
    ("tests/simulation/machine.py", "", "sleep"): "`nox -s machine`: drills on a real clock",
    **{
        ("tests/simulation/servers.py", "", kind): "`nox -s machines`: drills on a real clock"
        for kind in ("sleep", "patience", "timeout")
    },
    (
        "tests/postgres/test_postgres_kills.py",
        "",
        "sleep",
    ): "`nox -s postgres`: the instant of a kill, on which nothing depends",
    (
        "tests/postgres/test_postgres_kills.py",
        "",
        "timeout",
    ): "the argument of its `wait` is a number of sweeps",
    (
        "tests/postgres/test_large_copies.py",
        "run",
        "sleep",
    ): "the instant of a kill, on which nothing depends",
    ("tests/postgres/test_large_prunes.py", "", "timeout"): "the argument is a number of sweeps",
    (
        "tests/cli/test_cli_history.py",
        "Run.killed",
        "sleep",
    ): "the instant of a kill, on which nothing depends",
    (
        "tests/support/killed_runs.py",
        "run",
        "sleep",
    ): "the instant of a kill, on which nothing depends",
    ("tests/support/record_keeper.py", "", "sleep"): "only tests in virtual time use a `Link`",
    ("tests/faults/rules.py", "_meet", "duration"): "the rule compares it only if `is_virtual()`",
    (
        "tests/faults/test_cancellation.py",
        "balance",
        "sleep",
    ): "every scene runs on a virtual loop",
    (
        "tests/faults/test_cancellation.py",
        "test_closing_ends_every_call_in_flight_within_a_second.scene",
        "duration",
    ): "the scene runs on a virtual loop",
    (
        "tests/recorder/test_recorder.py",
        "acknowledged_until_killed",
        "sleep",
    ): "the instant of a kill, on which nothing depends",
    (
        "tests/recorder/test_recorder_storage.py",
        "Running.__aenter__",
        "sleep",
    ): "every test that enters it is marked `virtual_time`",
    (
        "tests/testing/test_simulated_client.py",
        "test_virtual_time_follows_its_loop_and_starts_at_a_full_minute",
        "sleep",
    ): "virtual time is installed by hand",
    (
        "tests/testing/test_simulated_client.py",
        "test_virtual_time_follows_its_loop_and_starts_at_a_full_minute",
        "duration",
    ): "virtual time is installed by hand",
    (
        "tests/testing/test_simulated_client.py",
        "test_an_exchange_is_served_in_an_existing_loop.scenario",
        "sleep",
    ): "virtual time is installed by hand",
}


def found() -> dict[tuple[str, str, str], list[int]]:
    """All reported places, as (file, function, kind) with their lines."""
    places: dict[tuple[str, str, str], list[int]] = {}
    for path in SEARCHED:
        name = path.relative_to(ROOT).as_posix()
        for find in search(path.read_text(encoding="utf-8")):
            places.setdefault((name, find.function, find.kind), []).append(find.line)
    return places


def allowance(place: tuple[str, str, str]) -> tuple[str, str, str]:
    """The entry of `ALLOWED` for a place."""
    file, _, kind = place
    return (file, "", kind) if (file, "", kind) in ALLOWED else place


def test_no_test_depends_on_the_speed_of_the_machine() -> None:
    places = found()
    assert {
        place: lines for place, lines in places.items() if allowance(place) not in ALLOWED
    } == {}
    assert {allowance(place) for place in places} == ALLOWED.keys()  # no entry is obsolete


def test_a_hung_test_ends_after_minutes_and_wallclock_tests_run_only_on_demand() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    options = project["tool"]["pytest"]["ini_options"]
    assert options["faulthandler_timeout"] >= 10 * PATIENCE_S
    assert options["addopts"][-2:] == ["-m", "not wallclock and not thorough"]


DURATIONS = """
    began = time.monotonic(); work(); assert time.monotonic() - began < 0.5
    began = time.perf_counter(); work(); took = time.perf_counter() - began; assert took <= LIMIT
    a, b = time.process_time(), 1; work(); assert (time.process_time() - a) / CALLS * 1e6 <= b
    began = time.thread_time_ns(); work(); assert 10 ** 6 > time.thread_time_ns() - began
    a = resource.getrusage(SELF).ru_utime; assert resource.getrusage(SELF).ru_utime - a < 2
    began = monotonic(); work(); assert round(monotonic() - began, 1) == 0.3
    began = time.time(); work(); assert time.time() - began == pytest.approx(1.0, abs=0.5)
    began = datetime.now(UTC); work(); assert (datetime.now(UTC) - began).total_seconds() < 2
    began = asyncio.get_running_loop().time(); work(); assert loop.time() - began < 0.1
    best = min(best, time.process_time() - 1.0 - began()); assert stopwatch() - alone <= 40.0
    began = time.monotonic(); work(); ok = time.monotonic() - began > 1.0; assert not ok
    began = time.monotonic(); work(); assert (1, time.monotonic() - began <= 0.5) == (1, True)
    self.began = time.monotonic(); work(); assert time.monotonic() - self.began < 5
"""
PATIENCE = """
    ends = time.monotonic() + 5.0; all(time.monotonic() < ends for _ in work())
    ends = loop.time() + LIMIT; assert loop.time() < ends
    ends = time.time() + 10; left = ends - time.time(); assert left > 0
    for _ in range(100): time.sleep(0.05)
    for _ in range(100): work() or await_(asyncio.sleep(0.05))
"""
SLEEPS = """
    time.sleep(0.3)
    time.sleep(random.uniform(0.1, 0.3))
    asyncio.sleep(0.1)
    sleep(LIMIT)
"""
TIMEOUTS = """
    subprocess.run(command, timeout=10)
    process.communicate(timeout=LIMIT)
    process.wait(timeout=20.0)
    thread.join(5)
    event.wait(2.0)
    future.result(timeout=1)
    asyncio.timeout(2)
    asyncio.timeout_at(loop.time() + 1.0)
    asyncio.wait_for(work(), 1)
    asyncio.wait(tasks, timeout=0.5)
    aiohttp.ClientTimeout(total=1.0)
    OpenInterestClient(timeout=2.0)
    urlopen(url, timeout=3)
    connection.settimeout(0.5)
    signal.alarm(10)
"""
# These lines hold on a slow machine too.
ALLOWED_LINES = """
    began = time.monotonic(); work(); assert time.monotonic() - began >= 0.3
    began = time.monotonic(); work(); assert time.monotonic() - began < 600.0
    a = time.process_time(); b = time.process_time() - a; assert b <= 3 * (time.process_time() - a)
    began = time.time(); assert began <= value.time
    offset = 5.0 - time.time() % 60.0; assert offset < 5
    assert value.time == noon + 5; assert len(calls) < 3; assert retry.time() < 5
    ends = time.monotonic() + 600; assert time.monotonic() < ends
    asyncio.sleep(0); asyncio.sleep(0.01); time.sleep(0.01); asyncio.sleep(seconds)
    for _ in range(100): asyncio.sleep(0)
    subprocess.run(command, timeout=600); subprocess.run(command); process.wait(); " ".join(names)
    asyncio.wait_for(work(), 0); asyncio.timeout(HANGS); retries.wait(error, 1, 0.5)
    main(["get", "--timeout", "1"]); mapping.get("timeout"); asyncio.wait([task])
"""
MODULE = """
LIMIT, CALLS, HANGS = 30.0, 3000, 600.0
def stopwatch():
    began = time.process_time()
    work()
    return time.process_time() - began
{mark}
async def test_it():
    {line}
"""


def lines(text: str) -> list[str]:
    return [line.strip() for line in text.strip().splitlines()]


def kinds_in(line: str, mark: str = "") -> set[str]:
    return {find.kind for find in search(MODULE.format(line=line, mark=mark))}


@pytest.mark.parametrize(
    "kind, line",
    [
        *(("duration", line) for line in lines(DURATIONS)),
        *(("patience", line) for line in lines(PATIENCE)),
        *(("sleep", line) for line in lines(SLEEPS)),
        *(("timeout", line) for line in lines(TIMEOUTS)),
    ],
)
def test_a_bound_on_real_time_is_reported(kind: str, line: str) -> None:
    assert kinds_in(line) == {kind}
    assert kinds_in(line, "@pytest.mark.wallclock") == set()


@pytest.mark.parametrize("line", lines(ALLOWED_LINES))
def test_code_that_holds_on_a_slow_machine_is_not_reported(line: str) -> None:
    assert kinds_in(line) == set()


@pytest.mark.parametrize(
    "line, kinds",
    [
        ("began = loop.time(); assert loop.time() - began < 0.1", set[str]()),
        ("await asyncio.sleep(600.0)", set[str]()),
        ("await asyncio.wait_for(work(), 1)", set[str]()),
        ("await client.get(url, timeout=1.0)", set[str]()),
        ("began = time.monotonic(); assert time.monotonic() - began < 0.1", {"duration"}),
        ("time.sleep(1.0)", {"sleep"}),
        ("subprocess.run(command, timeout=1)", {"timeout"}),
    ],
)
def test_in_virtual_time_only_bounds_on_system_clocks_are_reported(
    line: str, kinds: set[str]
) -> None:
    assert kinds_in(line, "@pytest.mark.virtual_time") == kinds


def test_the_fixture_makes_a_test_virtual_as_the_mark_does() -> None:
    source = "async def test_it(FIXTURE):\n    async def nap():\n        await asyncio.sleep(5.0)"
    assert search(source.replace("FIXTURE", "virtual_time")) == []
    assert len(search(source.replace("FIXTURE", "real_time"))) == 1


def test_a_function_used_only_by_virtual_tests_counts_as_virtual() -> None:
    source = """
async def nap():
    await asyncio.sleep(5.0)
@pytest.mark.virtual_time
async def test_one():
    await nap()
"""
    assert search(source) == []
    assert search(source + "async def test_other():\n    await nap()\n")
    assert search(source.replace("@pytest", "pytestmark = pytest.mark.virtual_time\n@other")) == []


def test_a_program_in_a_string_is_searched_and_reported_by_the_lines_of_its_file() -> None:
    source = 'A = 1\nPROGRAM = """\nimport time\ntime.sleep(0.5)\n"""\n'
    assert [(find.line, find.function, find.kind) for find in search(source)] == [
        (4, "PROGRAM", "sleep")
    ]
