"""When a host vanishes, a standby on another host takes over, and no slot is stored twice.

Rule of this file: hosts are network namespaces. If one vanishes, the others get no packet from it,
as if a real host had lost its power. BINANCE_OI_KILLS is how often hosts vanish in a test.
"""

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator

import psycopg
import pytest

from binance_oi.recorder.postgres_schema import LOCK
from support.hosts import Host, network
from support.postgres_server import Server, serving
from support.recorder_processes import Process, check_all

TIMES = int(os.environ.get("BINANCE_OI_KILLS", "1"))
WITHIN_S = 30.0  # s, at most, until the lock of a vanished host is released
HOLDER = f"""
SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND classid::bigint = {LOCK} AND granted
"""

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.wallclock,
    pytest.mark.skipif(
        sys.platform != "linux" or os.getuid() != 0, reason="only root on Linux can make namespaces"
    ),
]


@pytest.fixture(name="hosts", scope="module")
def _hosts() -> Iterator[tuple[Server, list[Host]]]:
    """A server, and three hosts: the one of the server, and two for recorders."""
    with (
        network(3) as (there, *others),
        serving(host=there.command, listen_addresses=there.address) as server,
    ):
        yield server, [there, *others]


def on(host: Host, url: str, *options: str, every: float = 0.1) -> Process:
    """Start a recorder on a host."""
    return Process(url, every, *options, host=host.command)


def remote(server: Server, host: Host) -> tuple[str, str]:
    """Make a database; return its URL over the network, and its URL through the server's socket."""
    url = server.database()
    name = url.partition("///")[2].partition("?")[0]
    return f"postgresql://postgres@{host.address}/{name}", url


def holder(url: str) -> int | None:
    """The id of the server process that has the recorder's lock, or None."""
    with psycopg.connect(url) as connection:
        database = f"{HOLDER} AND database = (SELECT oid FROM pg_database WHERE datname = %s)"
        row = connection.execute(database.encode(), (connection.info.dbname,)).fetchone()
        return None if row is None else int(row[0])


def until_taken_over(url: str, before: int | None) -> float:
    """Wait until a server process other than `before` has the lock; return the seconds."""
    began = time.monotonic()
    while holder(url) in (None, before):
        time.sleep(0.05)
    return time.monotonic() - began


@pytest.mark.parametrize("every", [0.1, 3.0], ids=["under way", "idle"])
def test_a_standby_takes_over_from_a_vanished_host_and_stores_no_slot_twice(
    hosts: tuple[Server, list[Host]], every: float
) -> None:
    """When the vanished host comes back, its recorder writes nothing more."""
    server, (there, *machines) = hosts
    chance, took = random.Random(8), list[float]()
    url, local = remote(server, there)
    acknowledged: list[tuple[int, int]] = []
    first = on(machines[0], url, every=every)
    first.wait(3 if every < 1 else 1)
    for _ in range(TIMES):
        second = on(machines[1], url, "--standby", every=every)
        first.wait(len(first.acknowledged) + 2)
        time.sleep(chance.uniform(0.5, 1.5))
        before = holder(local)
        machines[0].vanish()
        took.append(until_taken_over(local, before))
        second.wait(2)
        seen = len(first.acknowledged)
        machines[0].come_back()
        second.wait(len(second.acknowledged) + 3)
        acknowledged += first.kill()
        assert len(first.acknowledged) == seen
        first = second
        machines.reverse()
    acknowledged += first.kill()
    check_all(local, acknowledged)
    print("standbys took over after", [round(seconds, 1) for seconds in took], "s")
    assert max(took) < WITHIN_S


HOLDS = """
import sys
from binance_oi.recorder.postgres_connection import Connection
from binance_oi.recorder.postgres_schema import TRY_LOCK
connection = Connection(sys.argv[1], "binance-oi record test")
connection.execute(TRY_LOCK)
print("ready", flush=True)
connection.execute("SELECT pg_sleep(3), repeat('x', 100000)")
"""


def test_the_lock_of_a_host_that_vanishes_before_its_answer_arrives_is_released(
    hosts: tuple[Server, list[Host]],
) -> None:
    """While TCP waits for the acknowledgement of an answer, it sends no keepalive probes."""
    server, (there, machine, _) = hosts
    url, local = remote(server, there)
    command = [*machine.command, sys.executable, "-c", HOLDS, url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        machine.vanish()
        began = time.monotonic()
        while holder(local) is not None:
            time.sleep(0.05)
        took = time.monotonic() - began
        machine.come_back()
        process.kill()
    print(f"the lock was free after {took:.1f} s")
    assert took < WITHIN_S


def test_a_server_whose_host_vanishes_costs_no_sweep(hosts: tuple[Server, list[Host]]) -> None:
    """The recorder keeps its sweeps in memory, and writes them when the server's host is back."""
    server, (there, machine, _) = hosts
    url, local = remote(server, there)
    process = on(machine, url)
    process.wait(3)
    for _ in range(TIMES):
        there.vanish()
        time.sleep(20.0)
        there.come_back()
        process.wait(len(process.acknowledged) + 200)
    check_all(local, process.kill())
