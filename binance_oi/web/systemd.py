"""Reports the state of a service to systemd, and writes the unit that starts it.

The rule of this file: without systemd, the functions that report do nothing.

Source: sd_notify(3), systemd.service(5), systemd 252.
"""

import asyncio
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

UNIT: Final = """\
[Unit]
Description=Open interest of Binance Futures
After=network-online.target
Wants=network-online.target

[Service]
Type=notify
ExecStart={command}
WorkingDirectory={directory}
Restart=on-failure
RestartSec=5
WatchdogSec=60
TimeoutStopSec=15
LimitNOFILE=524288
NoNewPrivileges=yes
PrivateTmp=yes
ProtectControlGroups=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes

[Install]
WantedBy=default.target
"""


def notify(state: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Send a state, such as ``READY=1``, to systemd; return whether it was sent."""
    address = environment.get("NOTIFY_SOCKET", "")
    if not address or not hasattr(socket, "AF_UNIX"):
        return False
    if address.startswith("@"):  # an abstract socket
        address = f"\0{address[1:]}"
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.setblocking(False)
        channel.sendto(state.encode(), address)
        return True
    return False


def watchdog_pause(environment: Mapping[str, str] = os.environ) -> float | None:
    """Return the seconds between two signs of life; None if systemd expects none."""
    period, process = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
    if not period.isdigit() or not int(period) or process not in ("", str(os.getpid())):
        return None
    return int(period) / 2_000_000


async def keep_watchdog_quiet() -> None:
    """Send signs of life to systemd while the loop runs; return at once if systemd expects none."""
    pause = watchdog_pause()
    while pause is not None:
        notify("WATCHDOG=1")
        await asyncio.sleep(pause)


def unit(arguments: Sequence[str], directory: str) -> str:
    """Return the text of a unit that starts a service.

    Args:
        arguments: The arguments of `python -m binance_oi`.
        directory: The working directory, to which relative paths refer.
    """
    command = " ".join(map(_quoted, [sys.executable, "-m", "binance_oi", *arguments]))
    return UNIT.format(command=command, directory=directory.replace("%", "%%"))


def _quoted(word: str) -> str:
    """Quote one word of a command line in a unit.

    Source: systemd.service(5), "Command lines"; systemd.syntax(7), "Quoting".
    """
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    escaped = escaped.replace("\n", "\\n")
    is_plain = bool(word) and not any(c.isspace() or c in "\"'\\;" for c in word)
    return escaped if is_plain else f'"{escaped}"'
