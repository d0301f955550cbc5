"""Runs the command line (`binance-oi`, `python -m binance_oi`), or names the extra it needs."""

import sys

EXTRA = ("cyclopts", "rich")


def main() -> int:
    """Run the command line; return its exit code."""
    try:
        from binance_oi.cli import main as run

        return run()
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in EXTRA:
            raise
        from binance_oi.extras import command

        print(f"binance-oi: the command line needs {command('cli', *EXTRA)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
