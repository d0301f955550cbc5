"""Runs a PostgreSQL server for tests, with new data and a Unix socket in a new directory.

Rule of this file: an ordinary user runs the server, because it refuses to run as root. By default,
the server does not listen on the network. A test can kill it and start it again with its data.
"""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote

OURS = 65534  # the id of `nobody`, who runs the server if we are root
AS_ORDINARY_USER = ("setpriv", f"--reuid={OURS}", f"--regid={OURS}", "--clear-groups")
HANGS = 300.0  # s after which a program of the server counts as hung
SETTINGS = {
    "listen_addresses": "",
    "shared_buffers": "64MB",
    "max_connections": "60",
    "fsync": "off",  # the tests kill processes, but never the system
    "autovacuum_naptime": "10s",
    "log_min_messages": "fatal",
}


def find(program: str) -> str:
    """The path of a PostgreSQL program: on PATH, or in the folder of a distribution."""
    if found := shutil.which(program):
        return found
    places = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{program}"), reverse=True)
    if not places:
        raise AssertionError(f"{program} is missing: install postgresql")
    return str(places[0])


def as_ordinary_user() -> Any:
    return {"user": OURS, "group": OURS, "extra_groups": []} if os.getuid() == 0 else {}


class Server:
    """A server with its data; see `serving`."""

    def __init__(self, home: Path, settings: dict[str, str], host: Sequence[str]) -> None:
        self.home = home
        self._host = host
        self._settings = SETTINGS | settings
        self._process: subprocess.Popen[Any] | None = None
        self._numbers = count(1)

    def make(self) -> None:
        """Make the data directory."""
        command = [find("initdb"), "-D", str(self.home / "data"), "-U", "postgres", "-A", "trust"]
        options = ["--no-sync", "--encoding=UTF8", "--locale=C"]
        subprocess.run(
            [*command, *options],
            **as_ordinary_user(),
            check=True,
            capture_output=True,
            timeout=HANGS,
            cwd=self.home,
        )

    def trust(self, network: str) -> None:
        """Accept every user from these addresses."""
        with (self.home / "data" / "pg_hba.conf").open("a") as file:
            file.write(f"host all all {network} trust\n")

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        settings = [f"-c{name}={value}" for name, value in self._settings.items()]
        command = [find("postgres"), "-D", str(self.home / "data"), "-k", str(self.home), *settings]
        user = as_ordinary_user()
        if self._host:  # only root enters a network namespace
            user, command = {}, [*self._host, *AS_ORDINARY_USER, *command]
        self._process = subprocess.Popen(
            command,
            **user,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self.home,
            start_new_session=True,
        )
        self.wait()

    def wait(self) -> None:
        """Wait until the server answers."""
        ready = [find("pg_isready"), "-q", "-h", str(self.home), "-t", "60"]
        while subprocess.run(ready, timeout=HANGS).returncode:
            assert self._process is not None
            assert self._process.poll() is None, "the server has ended"

    def kill(self) -> None:
        """Kill the server and all its child processes, without any cleanup."""
        process, self._process = self._process, None
        assert process is not None
        process.send_signal(signal.SIGSTOP)  # so that it starts no process meanwhile
        connections = _children(process.pid)  # each has its own process group
        for pid in (process.pid, *connections):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait(HANGS)
        while any(map(_is_running, connections)):  # while one runs, a new server refuses to start
            time.sleep(0.01)
        (self.home / "data" / "postmaster.pid").unlink(missing_ok=True)

    def stop(self) -> None:
        """End the server and its connections."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGQUIT)
            process.wait(HANGS)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def url(self, database: str) -> str:
        return f"postgresql:///{database}?user=postgres&host={quote(str(self.home), safe='')}"

    def sql(self, statement: str, database: str = "postgres") -> str:
        """Run a statement; return the output of psql."""
        command = [find("psql"), "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"]
        place = ["-h", str(self.home), "-U", "postgres", "-d", database, "-c", statement]
        done = subprocess.run([*command, *place], capture_output=True, text=True, timeout=HANGS)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def database(self, template: str = "template1") -> str:
        """Copy the database with this name or URL; return the URL of the copy."""
        name = f"oi_{os.getpid()}_{next(self._numbers)}"
        origin = template.partition("///")[2].partition("?")[0] or template
        self.sql(f"CREATE DATABASE {name} TEMPLATE {origin}")
        return self.url(name)


def _stat(pid: int) -> tuple[str, int]:
    """The state and the parent of a process; ``"Z"`` (zombie) and 0 for one that has ended."""
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return "Z", 0
    return state, int(parent)


def _is_running(pid: int) -> bool:
    return _stat(pid)[0] not in "ZX"


def _children(parent: int) -> list[int]:
    found = [int(name.name) for name in Path("/proc").glob("[0-9]*")]
    return [pid for pid in found if _stat(pid)[1] == parent]


@contextmanager
def serving(host: Sequence[str] = (), **settings: str) -> Iterator[Server]:
    """A server in a new directory; the end of the block removes both.

    Args:
        host: The prefix of a command that runs on another host; see `support.hosts`.
        settings: Settings of the server.
    """
    home = Path(tempfile.mkdtemp(prefix="boi-", dir="/tmp"))  # the path of a socket must be short
    if os.getuid() == 0:
        os.chown(home, OURS, OURS)
    server = Server(home, settings, host)
    try:
        server.make()
        if host:
            server.trust("all")
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(home, ignore_errors=True)
