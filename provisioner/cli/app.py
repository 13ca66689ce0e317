"""The root command, global options, and the one place that catches ProvisionerError."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

import click

from provisioner.cli.context import Session
from provisioner.cli.demo import demo
from provisioner.cli.export import export
from provisioner.cli.fit import fit
from provisioner.cli.fleet import destroy, plan, schema, status, up
from provisioner.cli.guest import forward, logs, ssh
from provisioner.cli.holding import hold, release
from provisioner.cli.hypervisor import doctor, init, prepare
from provisioner.cli.lab import lab
from provisioner.cli.measure import bench, test
from provisioner.cli.output import print_error
from provisioner.cli.power import idle, mode, sleep, wake
from provisioner.cli.register import register
from provisioner.cli.serve import serve
from provisioner.cli.top import top
from provisioner.errors import ProvisionerError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "--fleet",
    "fleet_file",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="PROVISIONER_FLEET",
    help="The fleet file [default: inventory/fleet.yml].",
)
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@click.version_option(package_name="provisioner", prog_name="provisioner")
@click.pass_context
def root(context: click.Context, fleet_file: Path | None, debug: bool) -> None:
    """Turn Proxmox VE servers with GPUs into LLM serving nodes that sleep until a request wakes them.

    Exit codes: 0 done, 1 refused or failed, 2 wrong usage; plan and doctor use 3 for "there is something to do".
    """
    context.obj = Session(fleet_file, debug)


for _command in (
    init,
    up,
    plan,
    status,
    wake,
    sleep,
    hold,
    release,
    mode,
    idle,
    serve,
    destroy,
    register,
    ssh,
    fit,
    logs,
    forward,
    test,
    bench,
    top,
    doctor,
    prepare,
    schema,
    demo,
    lab,
    export,
):
    root.add_command(_command)


def main() -> None:
    """Run the command line."""
    # Looking through every installed package for plugins takes longer than checking the fleet file.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    # Importing makes a hundred thousand objects that stay; looking through them for rubbish is a tenth of `status`.
    gc.set_threshold(100_000, 20, 20)
    arguments = sys.argv[1:]
    session = {"debug": "--debug" in arguments, "json": "--json" in arguments}
    try:
        root.main(standalone_mode=False)
    except click.exceptions.Exit as leaving:
        sys.exit(leaving.exit_code)
    except (click.exceptions.Abort, KeyboardInterrupt):
        _leave_at_once()
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except ProvisionerError as error:
        if session["debug"]:
            raise
        print_error(error, as_json=session["json"])
        sys.exit(1)
    except BrokenPipeError:
        # The reader of our output has gone (| head); that is no failure of ours.
        sys.stderr.close()
        sys.exit(0)


def _leave_at_once() -> None:
    """Stop without waiting for nodes that are worked on in other threads; everything can be continued."""
    click.echo("stopped; the same command continues where it was", err=True)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(130)


if __name__ == "__main__":
    main()
