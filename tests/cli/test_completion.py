"""A shell completes commands and options without starting the program."""

import shutil
import subprocess
from pathlib import Path

import pytest

from binance_oi.cli import main
from binance_oi.cli.commands import app

Captured = pytest.CaptureFixture[str]
COMMANDS = {name for name in app if not name.startswith("-")}


def script(shell: str, capsys: Captured) -> str:
    assert main(["completion", shell]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_of_each_shell_has_every_command_and_the_shared_options(
    shell: str, capsys: Captured
) -> None:
    text = script(shell, capsys)
    assert [name for name in COMMANDS if name not in text] == []
    for option in ("reserve", "max-wait", "log-level", "symbol", "since"):
        assert option in text
    assert "__complete" not in text  # the script does not start the program at each key


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash on this system")
@pytest.mark.parametrize(
    "words, expected",
    [
        ("rep", {"report"}),
        ("", COMMANDS),
        ("snapshot --sor", {"--sort"}),
        ("snapshot --sort ", {"name", "usd"}),
        ("get --log-level ", {"debug", "info", "warning", "error"}),
        ("record --fo", {"--for"}),
        ("completion ", {"bash", "zsh", "fish"}),
    ],
)
def test_bash_completes_commands_and_options(
    words: str, expected: set[str], capsys: Captured, tmp_path: Path
) -> None:
    path = tmp_path / "completion.bash"
    path.write_text(script("bash", capsys))
    given = ["binance-oi", *words.split(" ")]
    ask = f"""
source {path}
COMP_WORDS=({" ".join(f"'{word}'" for word in given)}); COMP_CWORD={len(given) - 1}
COMP_LINE='binance-oi {words}'; COMP_POINT=${{#COMP_LINE}}
$(complete -p binance-oi | sed 's/.*-F \\([^ ]*\\).*/\\1/')
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    command = ["bash", "--norc", "-c", ask]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert expected <= {line.strip() for line in done.stdout.splitlines()}


def test_an_unknown_shell_is_wrong_usage(capsys: Captured) -> None:
    assert main(["completion", "tcsh"]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
