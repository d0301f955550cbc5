"""The command `serve`.

The rule of this file: as soon as the service answers, the command prints its URL as the first line.
A stop signal ends open streams, lets current answers finish, and closes the recording. It is not an
error. Only SIGHUP changes the exit code, to 129.
"""

import asyncio
import os
from collections.abc import Coroutine, Iterable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from typing import Any

from binance_oi.arguments import StrPath
from binance_oi.cli.endings import HUNG_UP, LOST, OK, SIGHUP, USAGE, UsageError, as_usage_errors
from binance_oi.cli.options import Source
from binance_oi.cli.render import json_line
from binance_oi.cli.signals import stopped_by_signals
from binance_oi.cli.streams import write_note, write_out
from binance_oi.client import OpenInterestClient
from binance_oi.recorder import Recorder, Recording
from binance_oi.web import oi_app
from binance_oi.web.aiohttp_app import SERVICE
from binance_oi.web.limits import Limits
from binance_oi.web.server import CONNECTIONS, Server
from binance_oi.web.systemd import keep_watchdog_quiet, notify, unit

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
SPARE_FILES = 300  # files for the exchange, recordings, and refused connections (`web.server`)


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """The arguments of the command."""

    symbols: Sequence[str] | None
    every: float | None
    notional: bool
    record_to: StrPath | None
    recording: StrPath | None
    host: str
    port: int
    hosts: Sequence[str]
    origins: Sequence[str]
    proxies: Sequence[str]
    as_json: bool = False


def print_unit(arguments: Sequence[str]) -> int:
    """Print the systemd unit for these arguments."""
    words = [word for word in arguments if word != "--print-unit"]
    write_out(unit(words, os.getcwd()))
    return OK


def serve(arguments: Arguments, source: Source) -> int:
    """Serve until a signal stops the service."""
    if arguments.recording is not None and arguments.record_to is not None:
        raise UsageError("--recording and --record-to exclude each other")
    files = raise_open_files()
    with as_usage_errors():
        if arguments.recording is not None:
            with Recording(arguments.recording):  # raises now if it is not a recording
                pass
            return asyncio.run(_serve(arguments, None, files))
        with source.client() as client:
            return asyncio.run(_serve(arguments, client, files))


def raise_open_files() -> int:
    """Raise this process's limit of open files as far as the system allows; return the limit."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return 512
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        hard = 1 << 20
    if soft < hard:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return int(resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def limits_for(files: int) -> Limits:
    """Return the limits of the service for a process that may open `files` files."""
    return Limits(listeners=min(Limits().listeners, connections_for(files)))


def connections_for(files: int) -> int:
    """Return the number of connections to accept for a process that may open `files` files."""
    return max(1, min(CONNECTIONS, files - SPARE_FILES))


async def _serve(arguments: Arguments, client: OpenInterestClient | None, files: int) -> int:
    async with AsyncExitStack() as stack:
        if client is not None:
            await stack.enter_async_context(client)
        app = oi_app(
            client,
            recording=arguments.recording or arguments.record_to,
            symbols=arguments.symbols,
            every=arguments.every,
            notional=arguments.notional,
            hosts=(*LOOPBACK, _as_host(arguments.host), *arguments.hosts),
            origins=arguments.origins,
            proxies=arguments.proxies,
            limits=limits_for(files),
        )
        most = connections_for(files)
        server = Server(app, arguments.host, arguments.port, connections=most)
        recorder = _recorder(arguments, client)
        with stopped_by_signals() as stop:
            try:
                await server.start()
            except OSError as error:
                why = error.strerror or str(error)
                write_note(f"--host {arguments.host} --port {arguments.port} cannot be used: {why}")
                return USAGE
            app[SERVICE].begin()
            write_out(json_line({"url": server.url}) if arguments.as_json else f"{server.url}\n")
            notify(f"READY=1\nSTATUS={server.url}")
            ends = (stop.event.wait(), app[SERVICE].ended())
            await _until_one_ends(server, recorder, ends)
    if recorder is not None and recorder.status.lost:
        return LOST
    return HUNG_UP if SIGHUP in stop.received else OK


def _recorder(arguments: Arguments, client: OpenInterestClient | None) -> Recorder | None:
    if arguments.record_to is None or client is None:
        return None
    symbols, notional = arguments.symbols, arguments.notional
    return Recorder(
        client, arguments.record_to, every=arguments.every, symbols=symbols, notional=notional
    )


async def _until_one_ends(
    server: Server, recorder: Recorder | None, ends: Iterable[Coroutine[Any, Any, object]]
) -> None:
    """Serve and record until the recorder stops or one of `ends` finishes; then stop everything.

    If one of them has failed, raise its error.
    """
    beside = asyncio.create_task(keep_watchdog_quiet())
    jobs = [asyncio.create_task(each) for each in ends]
    if recorder is not None:
        jobs.append(asyncio.create_task(recorder.run()))
    try:
        await asyncio.wait(jobs, return_when=asyncio.FIRST_COMPLETED)
    finally:
        notify("STOPPING=1")
        ending = asyncio.create_task(server.stop())
        if recorder is not None:
            recorder.stop()
            await asyncio.wait([jobs[-1]])
        for task in (beside, *jobs):
            task.cancel()
        await asyncio.wait([ending, beside, *jobs])
    for task in (ending, *jobs):
        if not task.cancelled():
            task.result()


def _as_host(address: str) -> str:
    return f"[{address}]" if ":" in address else address
