"""Commands about this machine."""

from typing import Annotated, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from binance_oi.cli.app import app, command
from binance_oi.cli.endings import OK, UsageError
from binance_oi.cli.options import Flag, Output, check_shared, variable
from binance_oi.cli.streams import PROGRAM, write_out


@command
def budget(
    *,
    forget: str | None = None,
    yes: Flag = False,
    budget: Annotated[str | None, Parameter(metavar="URL"), variable("BUDGET")] = None,
    egress: Annotated[str | None, Parameter(metavar="NAME"), variable("EGRESS")] = None,
    output: Output = Output(),
) -> int:
    """Show the budget of every exchange that you read from this machine, and send no request.

    The last line names the file that all processes of this user share. The list omits an exchange
    on a local port if no program listens there and the budget has no cooldown.

    Args:
        forget: The name of a budget to delete. The command first shows the budget and asks.
        yes: Delete the budget without asking.
        budget: Show the budgets on this Redis or Valkey server instead, redis://host.
        egress: With --budget: the name of the public address whose budgets to show.
    """
    from binance_oi.cli import budgets

    if budget is not None and forget is not None:
        raise UsageError("--forget is for the budgets of this machine, not for --budget")
    shared = check_shared(budget, egress)
    if shared is not None:
        return budgets.shared(shared.budget, shared.egress, output)
    if forget is None:
        return budgets.budgets(output)
    return budgets.forget(forget, output, is_agreed=yes)


@command
def simulate(
    *,
    port: Annotated[int, Parameter(validator=Number(gte=0, lte=65535))] = 0,
    limit: Annotated[int, Parameter(validator=Number(gt=0))] = 2400,
    used: Annotated[int, Parameter(validator=Number(gte=0))] = 0,
    others: Annotated[float, Parameter(validator=Number(gte=0))] = 0.0,
    latency: Annotated[float, Parameter(validator=Number(gte=0))] = 0.0,
    seed: int = 0,
    json: Flag = False,
) -> int:
    """Run a local exchange until interrupted; the first line is its URL.

    Args:
        port: The port on 127.0.0.1; 0 for any free port.
        limit: The weight that the exchange allows in a minute.
        used: The weight that other clients have already used in the first minute.
        others: The weight that other clients use each second.
        latency: The seconds from a request to its answer.
        seed: The seed of all random numbers.
        json: Print the URL as a JSON object.
    """
    import asyncio

    from binance_oi.cli.simulating import serve
    from binance_oi.simulator import LocalExchange, Steady

    steady = Steady(others) if others else None
    exchange = LocalExchange(
        port=port, limit=limit, used=used, others=steady, latency=latency, seed=seed
    )
    return asyncio.run(serve(exchange, port, as_json=json))


@command
def completion(shell: Literal["bash", "zsh", "fish"], /) -> int:
    """Print a script that completes commands and options in a shell.

    bash: eval "$(binance-oi completion bash)" in ~/.bashrc.

    zsh: binance-oi completion zsh > ~/.zfunc/_binance-oi, with ~/.zfunc in fpath before compinit.

    fish: binance-oi completion fish > ~/.config/fish/completions/binance-oi.fish

    Args:
        shell: The shell that runs the script.
    """
    write_out(app.generate_completion(prog_name=PROGRAM, shell=shell))
    return OK
