"""Simulated hosts that can vanish silently from their network. This needs Linux and root.

Rule of this file: a host is a network namespace behind a router. A vanished host neither sends nor
receives. Its processes continue, and other hosts get no error.
"""

import os
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from itertools import count

_numbers = count(1)


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, timeout=60.0)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"


def _write(namespace: str, setting: str, value: str) -> None:
    """Change an IPv4 setting of a namespace."""
    command = f"echo {value} > /proc/sys/net/ipv4/{setting}"
    words = ["ip", "netns", "exec", namespace, "sh", "-c", command]
    subprocess.run(words, check=True, timeout=60.0)


class Host:
    """A host; see `network`."""

    def __init__(self, router: str, number: int) -> None:
        self._router, self._far = router, f"to{number}"
        self._name = f"{router}-{number}"
        self.address = f"10.231.{number}.2"
        self._gateway = f"10.231.{number}.1"

    @property
    def command(self) -> tuple[str, ...]:
        """The prefix of a command that runs on this host."""
        return ("ip", "netns", "exec", self._name)

    def connect(self) -> None:
        """Make the host, with a cable to the router."""
        _ip("netns", "add", self._name)
        cable = ("type", "veth", "peer", "name", "eth", "netns", self._name)
        _ip("link", "add", self._far, "netns", self._router, *cable)
        for name, device, address in (
            (self._router, self._far, self._gateway),
            (self._name, "eth", self.address),
        ):
            _ip("-n", name, "addr", "add", f"{address}/30", "dev", device)
            _ip("-n", name, "link", "set", device, "up")
        _ip("-n", self._name, "link", "set", "lo", "up")
        _ip("-n", self._name, "route", "add", "default", "via", self._gateway)

    def vanish(self) -> None:
        """Drop every packet from and to this host, silently."""
        self._forward("0")
        _ip("-n", self._router, "route", "add", "blackhole", f"{self.address}/32")

    def come_back(self) -> None:
        """Forward the packets of this host again."""
        _ip("-n", self._router, "route", "del", "blackhole", f"{self.address}/32")
        self._forward("1")

    def _forward(self, value: str) -> None:
        _write(self._router, f"conf/{self._far}/forwarding", value)

    def remove(self) -> None:
        """Remove the host, whose processes must have ended."""
        _ip("netns", "del", self._name)


@contextmanager
def network(hosts: int) -> Generator[list[Host]]:
    """Make hosts behind one router, and remove them at the end of the block."""
    router = f"boi-{os.getpid()}-{next(_numbers)}"
    _ip("netns", "add", router)
    made = list[Host]()
    try:
        for number in range(1, hosts + 1):
            made.append(Host(router, number))
            made[-1].connect()
        command = [
            "ip",
            "netns",
            "exec",
            router,
            "sh",
            "-c",
            "echo 1 > /proc/sys/net/ipv4/ip_forward",
        ]
        subprocess.run(command, check=True, timeout=60.0)
        yield made
    finally:
        for host in made:
            host.remove()
        _ip("netns", "del", router)
