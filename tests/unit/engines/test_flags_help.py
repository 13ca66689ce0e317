"""Help texts of the installed engines, in the forms they have been printed in, against a mode's arguments.

The texts are our own, in the layout of argparse, of vLLM's formatter, of
llama.cpp, clap, cobra and typer.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from provisioner.engines.flags import Fault, contradictions, flags_in_help, help_command
from provisioner.engines.flags.table import table_of
from tests.archives import unpack

VLLM = """\
INFO 11-01 10:00:00 a line of the log --before the help
usage: vllm serve [model_tag] [options]

positional arguments:
  model_tag             What to serve (default: None)

options:
  --api-server-count API_SERVER_COUNT, -asc API_SERVER_COUNT
                        How many; see --data-parallel-size.
  -h, --help            show this and exit

Some Group:
  --dtype {auto,bfloat16,half}
                        A format.
                        - "half" is for --other things
  --enable-prefix-caching, --disable-prefix-caching
                        Keep prefixes. (default: None)
  --enforce-eager, --no-enforce-eager
                        No graphs.
  --load-format {auto,dummy} or name registered by a plugin
                        From where.
  --quantization QUANTIZATION, -q QUANTIZATION
                        How.
When passing JSON CLI arguments, the following sets of arguments are equivalent:
   --json-arg '{"key1": "value1"}'
"""

VLLM_0_10 = """\

Parameters matching '-':
--api-server-count API_SERVER_COUNT, -asc API_SERVER_COUNT
                        How many. (default: 1)
--async-scheduling, --no-async-scheduling
--block-size {1,8,16}
--collect-detailed-traces {all,model,None} [{all,model,None} ...]
"""

NEW_ARGPARSE = """\
options:
  -h, --help            show this and exit
  -q, --quantization QUANTIZATION
                        How.
"""

LLAMA = """\
warning: no usable GPU found, --gpu-layers option will be ignored
----- common params -----

-h,    --help, --usage                  print usage and exit
-t,    --threads N                      number of threads (default: <num>)
                                        (env: LLAMA_ARG_THREADS)
-fa,   --flash-attn [on|off|auto]       set it ('on', 'off', or 'auto')
-sm,   --split-mode {none,layer,row}    how, one of:
                                        - none: use one only
                                        --with a hyphen at the start
--poll <0...100>                        polling level
-kvo,  --kv-offload, -nkvo, --no-kv-offload
                                        whether to keep it there
-hff,  --hf-file FILE                   a file; overrides --hf-repo
--draft, --draft-max N                  the argument has been removed. use --spec-draft-n-max
                                        (env: LLAMA_ARG_DRAFT_MAX)
--fim-1.5b-default                      a preset


----- example-specific params -----

--metrics                               serve numbers
"""

TGI = """\
Text Generation Launcher

Usage: text-generation-launcher [OPTIONS]

Options:
      --model-id <MODEL_ID>
          Which. Not to be used with `--revision`

          [env: MODEL_ID=]

      --sharded <SHARDED>
          Whether

          [env: SHARDED=]
          [possible values: true, false]

  -p, --port <PORT>
          Where [default: 3000]
      --trust-remote-code
          Whether
"""

OLLAMA = """\
Start Ollama

Usage:
  ollama serve [flags]

Aliases:
  serve, start

Flags:
  -h, --help   help for serve

Environment Variables:
      OLLAMA_DEBUG               Show more (e.g. OLLAMA_DEBUG=1)
      OLLAMA_HOST                Where (default 127.0.0.1:11434)
      OLLAMA_NUM_PARALLEL        How many
"""

OPEN_WEBUI = """\
 Usage: open-webui serve [OPTIONS]

╭─ Options ────────────────────────────────────────────╮
│ --host        TEXT     [default: 0.0.0.0]            │
│ --port        INTEGER  [default: 8080]               │
│ --help                 Show this message and exit.   │
╰──────────────────────────────────────────────────────╯
"""


@pytest.mark.parametrize(
    ("engine", "text", "names"),
    [
        (
            "vllm",
            VLLM,
            "--api-server-count -asc -h --help --dtype --enable-prefix-caching --disable-prefix-caching "
            "--enforce-eager --no-enforce-eager --load-format --quantization -q",
        ),
        (
            "vllm",
            VLLM_0_10,
            "--api-server-count -asc --async-scheduling --no-async-scheduling --block-size --collect-detailed-traces",
        ),
        ("vllm", NEW_ARGPARSE, "-h --help -q --quantization"),
        (
            "llama.cpp",
            LLAMA,
            "-h --help --usage -t --threads -fa --flash-attn -sm --split-mode --poll -kvo --kv-offload -nkvo "
            "--no-kv-offload -hff --hf-file --draft --draft-max --fim-1.5b-default --metrics",
        ),
        ("tgi", TGI, "--model-id --sharded -p --port --trust-remote-code"),
        ("ollama", OLLAMA, "OLLAMA_DEBUG OLLAMA_HOST OLLAMA_NUM_PARALLEL"),
        ("open-webui", OPEN_WEBUI, "--host --port --help"),
        ("vllm", "vllm: command not found", ""),
        ("ollama", "Error: unknown command", ""),
    ],
)
def test_a_help_text_tells_its_flags_and_nothing_else(engine: str, text: str, names: str) -> None:
    assert set(flags_in_help(engine, "1", text).flags) == set(names.split())


@pytest.mark.parametrize(
    ("engine", "text", "name", "choices"),
    [
        ("vllm", VLLM, "--dtype", ("auto", "bfloat16", "half")),
        ("vllm", VLLM, "--load-format", ()),
        ("vllm", VLLM, "-q", ()),
        ("vllm", VLLM_0_10, "--block-size", ("1", "8", "16")),
        ("vllm", VLLM_0_10, "--collect-detailed-traces", ("all", "model", "None")),
        ("llama.cpp", LLAMA, "--flash-attn", ("on", "off", "auto")),
        ("llama.cpp", LLAMA, "-sm", ("none", "layer", "row")),
        ("llama.cpp", LLAMA, "--poll", ()),
        ("tgi", TGI, "--sharded", ("true", "false")),
        ("tgi", TGI, "--model-id", ()),
    ],
)
def test_a_help_text_tells_the_words_to_choose_from(
    engine: str, text: str, name: str, choices: tuple[str, ...]
) -> None:
    assert flags_in_help(engine, "1", text).flags[name].choices == choices


@pytest.mark.parametrize(
    ("engine", "version", "text", "arguments", "fault", "found"),
    [
        ("vllm", "0.33.0", VLLM, {"swap-space": 4}, Fault.UNKNOWN, "does not list --swap-space"),
        ("vllm", "0.33.0", VLLM, {"seed": 4}, Fault.UNKNOWN, "does not list --seed"),
        ("vllm", "0.33.0", VLLM, {"dtype": "float16"}, Fault.VALUE, "does not take --dtype float16"),
        ("llama.cpp", "b11669", LLAMA, {"mlock": True}, Fault.UNKNOWN, "does not list --mlock"),
        ("llama.cpp", "b11669", LLAMA, {"draft-max": 4}, Fault.REMOVED, "use --spec-draft-n-max"),
        ("llama.cpp", "b11669", LLAMA, {"split-mode": "tensor"}, Fault.VALUE, "does not take --split-mode tensor"),
        ("tgi", "3.3.7", TGI, {"sharded": "yes"}, Fault.VALUE, "does not take --sharded yes"),
        ("ollama", "0.32.15", OLLAMA, {"OLLAMA_FROB": 1}, Fault.UNKNOWN, "does not list OLLAMA_FROB"),
        ("ollama", "0.32.15", OLLAMA, {"OLLAMA_NO_CLOUD": 1}, Fault.UNKNOWN, "does not list OLLAMA_NO_CLOUD"),
    ],
)
def test_an_argument_that_the_installed_engine_does_not_know_is_a_contradiction(
    engine: str, version: str, text: str, arguments: dict[str, object], fault: Fault, found: str
) -> None:
    problems = contradictions(engine, version, arguments, text)

    assert [(each.fault, each.is_certain) for each in problems] == [(fault, True)]
    assert found in problems[0].found


@pytest.mark.parametrize(
    ("engine", "version", "text", "arguments"),
    [
        ("vllm", "0.33.0", VLLM, {"dtype": "half", "enforce_eager": True, "q": "awq", "load-format": "plugin's"}),
        ("vllm", "0.10.2", VLLM_0_10, {"block-size": 16, "collect-detailed-traces": "model,all"}),
        # Accepted and kept out of the help: the older spelling of --disable-prefix-caching.
        ("vllm", "0.33.0", VLLM, {"no-enable-prefix-caching": True, "VLLM_X": 1, "swap-space": False}),
        ("llama.cpp", "b11669", LLAMA, {"t": 4, "fa": "true", "nkvo": True, "flash-attn": True, "metrics": True}),
        ("ollama", "0.32.15", OLLAMA, {"OLLAMA_DEBUG": 1, "OLLAMA_VULKAN": 0, "CUDA_VISIBLE_DEVICES": "0"}),
        # Of a version that nobody named: any that keeps a variable out of its help may be the one.
        ("ollama", "", OLLAMA, {"CUDA_VISIBLE_DEVICES": "0", "OLLAMA_AUTH": 1, "OLLAMA_CONTEXT_LENGTH": 4096}),
        ("ollama", "99.0.0", OLLAMA, {"CUDA_VISIBLE_DEVICES": "0"}),
        ("an engine without a table", "1", "", {"x": 1}),
        ("vllm", "0.33.0", "", {}),
    ],
)
def test_what_the_installed_engine_knows_is_no_contradiction(
    engine: str, version: str, text: str, arguments: dict[str, object]
) -> None:
    assert contradictions(engine, version, arguments, text) == ()


def test_help_that_failed_is_told_in_the_engines_own_words_and_refuses_nothing() -> None:
    text = "Traceback (most recent call last):\nRuntimeError: Failed to infer device type\n\n"

    (problem,) = contradictions("vllm", "0.33.0", {"seed": 1}, text)

    assert problem.fault is Fault.UNREADABLE
    assert not problem.is_certain
    assert "Failed to infer device type" in problem.found


@pytest.mark.parametrize(
    ("engine", "version", "last"),
    [
        ("vllm", "0.8.5", "--help"),
        ("vllm", "0.9.2", "--help=-"),
        ("vllm", "0.10.2", "--help=-"),
        ("vllm", "0.11.0", "--help=all"),
        ("vllm", "0.33.0", "--help=all"),
        ("vllm", "some build", "--help=all"),
        ("llama.cpp", "b11669", "--help"),
        ("tgi", "3.3.7", "--help"),
        ("ollama", "0.32.15", "--help"),
        ("exo", "1.0.71", "--help"),
        ("open-webui", "0.12.4", "--help"),
    ],
)
def test_the_command_prints_all_flags_in_its_version(engine: str, version: str, last: str) -> None:
    assert help_command(engine, version)[-1] == last


def test_an_engine_without_a_table_has_no_command() -> None:
    assert help_command("another", "1") == ()


def _server_archive() -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "provisioner" / "lab"
    found = sorted(base.glob("llama.cpp-*/llama.cpp-*.tar.gz"))
    if not found:
        pytest.skip("no llama-server here: `provisioner lab images` builds it")
    return found[-1]


def test_the_table_and_the_reader_agree_with_a_real_llama_server(tmp_path: Path) -> None:
    archive = _server_archive()
    unpack(archive, tmp_path)
    server = next(tmp_path.glob("*/llama-server"))
    asked = subprocess.run([server, "--version"], capture_output=True, text=True, timeout=60, check=True)
    said = asked.stdout + asked.stderr
    table = table_of("llama.cpp")
    assert table is not None
    if "build 11669" not in said:
        pytest.skip(f"the table was made from build 11669; this is {said.strip()[:60]}")
    text = subprocess.run([server, "--help"], capture_output=True, text=True, timeout=60, check=True).stdout

    told = flags_in_help("llama.cpp", "b11669", text)
    version = table.version("b11669")
    assert version is not None

    assert {name for name, flag in told.flags.items() if not flag.removed} == set(table.names_in(version))
    assert {name for name, flag in told.flags.items() if flag.removed} >= {"--draft", "--draft-max", "--draft-min"}
    for arguments in ({"--mlock": ""}, {"--draft-max": "4"}, {"--flash-attn": "yes"}, {"--split-mode": "even"}):
        words = [word for pair in arguments.items() for word in pair if word]
        refused = subprocess.run([server, *words, "--version"], capture_output=True, text=True, timeout=60)
        assert refused.returncode != 0, words
