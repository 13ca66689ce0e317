"""fit."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from provisioner.cli.context import Session, json_option, pass_session
from provisioner.cli.output import print_json

if TYPE_CHECKING:
    from provisioner.planning.fit.judge import FitReport


@click.command(
    short_help="Say whether a model fits a GPU, with the sum.",
    epilog="Example: provisioner fit llama3.1:70b --gpu 2xrtx3090 --context 16384",
)
@click.argument("model")
@click.option(
    "--gpu",
    "gpus",
    multiple=True,
    metavar="GPU",
    help="A size (24GiB), a card (rtx3090) or a GPU of the fleet; repeat it, or write 2x24GiB.",
)
@click.option("--context", type=click.IntRange(1), help="Tokens for each request [default: the engine's own].")
@click.option("--parallel", type=click.IntRange(1, 4096), default=1, show_default=True, help="Requests at once.")
@click.option("--quantization", metavar="Q", help="Of the weights, such as q4_k_m, awq, fp8 or bf16.")
@click.option("--kv-dtype", metavar="TYPE", help="What the cache is kept in, such as f16, q8_0 or fp8.")
@click.option("--engine", metavar="ENGINE", help="Who serves it: ollama, llama.cpp, vllm or tgi.")
@click.option(
    "--engine-version", metavar="VERSION", default="", help="vLLM takes 0.9 of a card before 0.20, then 0.92."
)
@click.option("--ram", metavar="SIZE", help="Memory of the VM, for a node without GPU.")
@json_option
@pass_session
def fit(
    session: Session,
    model: str,
    gpus: tuple[str, ...],
    context: int | None,
    parallel: int,
    quantization: str | None,
    kv_dtype: str | None,
    engine: str | None,
    engine_version: str,
    ram: str | None,
) -> None:
    """Say whether a model fits a GPU, with the sum, and the least that would make it fit.

    MODEL is a name (llama3.1:8b, Qwen/Qwen2.5-7B-Instruct-AWQ), a model's folder or config.json, or a GGUF file.
    Exit code 1: it does not fit as asked.
    """
    from provisioner.cli.fit_view import as_dict, fit_lines
    from provisioner.fitting import fit as judge_fit
    from provisioner.fitting import on_common_cards

    report: FitReport = judge_fit(
        model,
        gpus=gpus,
        context=context,
        parallel=parallel,
        quantization=quantization,
        kv_dtype=kv_dtype,
        engine=engine,
        engine_version=engine_version,
        ram=ram,
        fleet_file=session.fleet_file,
    )
    cards = on_common_cards(report) if report.fits is None else ()
    if session.json:
        print_json(as_dict(report, cards))
    else:
        click.echo("\n".join(fit_lines(report, cards)))
    if report.fits is False:
        sys.exit(1)
