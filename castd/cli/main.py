"""
Runs the command C{castd}: finds the command that is named, each in a module of its own.
"""

from __future__ import annotations

from pkgutil import resolve_name
from types import MappingProxyType

import click
from click.shell_completion import get_completion_class

from castd import __version__, native
from castd.cli.console import openClosedStreams

#: Where each command is.
_COMMANDS = MappingProxyType(
    {
        "check": "castd.cli.check:check",
        "dhcp43": "castd.cli.dhcp:dhcp43",
        "doctor": "castd.cli.doctor:doctor",
        "explain": "castd.cli.explain:explain",
        "get": "castd.cli.transfer:get",
        "history": "castd.cli.history:history",
        "import": "castd.cli.importing:importCommand",
        "plugins": "castd.cli.plugins:plugins",
        "put": "castd.cli.transfer:put",
        "pxe": "castd.cli.pxe:pxeCommand",
        "record": "castd.cli.record:record",
        "reload": "castd.cli.control:reload",
        "schema": "castd.cli.plugins:schema",
        "serve": "castd.cli.serve:serve",
        "status": "castd.cli.status:status",
        "upgrade": "castd.cli.control:upgrade",
    }
)


class _Commands(click.Group):
    """
    Imports the module of a command when that is used: to import all takes a second, at each key that a shell completes.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *_COMMANDS})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        found = super().get_command(ctx, cmd_name)
        if found is None and cmd_name in _COMMANDS:
            found = resolve_name(_COMMANDS[cmd_name])
            assert isinstance(found, click.Command)
        return found


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="castd", message=f"%(prog)s, version %(version)s ({native.describe()})")
def main() -> None:
    """Deliver boot files over datagrams, to one machine or a whole hall."""
    openClosedStreams()


@main.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """
    Print what makes a shell complete the words of castd's commands.

    For bash: eval "$(castd completion bash)", in ~/.bashrc.
    """
    maker = get_completion_class(shell)
    if maker is None:
        raise click.ClickException(f"this version of click knows no {shell}")
    click.echo(maker(main, {}, "castd", "_CASTD_COMPLETE").source())
