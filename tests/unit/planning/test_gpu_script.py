"""The gathering script itself, run by a real shell, with a stand-in for nvidia-smi that refuses, fails and hangs."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from provisioner.planning.gpu import gather_command, gpu_facts
from provisioner.planning.gpu.smi import FIELDS
from tests.fakes.gpu_answers import HEALTHY, UUID

# Knows all fields but those in $UNKNOWN, as real ones do: one complaint at a time, on standard output, exit code 2.
TOOL = """#!/bin/sh
echo "$*" >>"$CALLS"
case $1 in
--query-gpu=*)
	for field in $(printf '%s' "${1#--query-gpu=}" | tr , ' '); do
		case " $UNKNOWN " in
		*" $field "*) printf 'Field "%s" is not a valid field to query.\\n\\n' "$field"; exit 2 ;;
		esac
		value=$(sed -n "s/^$field=//p" "$VALUES")
		line="${line:+$line, }$value"
	done
	echo "$line" ;;
--query-compute-apps=*) echo "12, 370, UUID, /opt/llm/engine" ;;
--version) printf 'DRIVER version      : 580.173.02\\nCUDA Version        : 13.0\\n' ;;
esac
"""


def gather(folder: Path, tool: str | None, *, live: bool = False, unknown: str = "", patience: int = 15) -> str:
    tools = folder / "tools"
    tools.mkdir(exist_ok=True)
    if tool is not None:
        (tools / "nvidia-smi").write_text(tool.replace("UUID", UUID))
        (tools / "nvidia-smi").chmod(0o755)
    (folder / "values").write_text("".join(f"{field}={value}\n" for field, value in HEALTHY.items()))
    done = subprocess.run(
        gather_command(live=live),
        env={
            "PATH": f"{tools}:{os.environ['PATH']}",
            "VALUES": str(folder / "values"),
            "CALLS": str(folder / "calls"),
            "UNKNOWN": unknown,
            "GATHER_PATIENCE": str(patience),
        },
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout


def test_everything_is_gathered_in_one_go(tmp_path: Path) -> None:
    facts = gpu_facts(gather(tmp_path, TOOL))
    assert facts.kernel == os.uname().release
    assert [reading.name for reading in facts.readings] == ["NVIDIA GeForce RTX 3090"]
    assert [(process.pid, process.gpu_uuid) for process in facts.processes or ()] == [(12, UUID)]
    assert (facts.versions.reported, facts.versions.cuda) == ("580.173.02", "13.0")


@pytest.mark.parametrize("unknown", ["gpu_recovery_action", "compute_cap memory.reserved gpu_recovery_action"])
def test_a_field_that_a_driver_does_not_know_is_left_out(tmp_path: Path, unknown: str) -> None:
    (reading,) = gpu_facts(gather(tmp_path, TOOL, unknown=unknown)).readings
    assert (reading.recovery_action, reading.memory_bytes) == (None, 24576 << 20)
    asked = [line for line in (tmp_path / "calls").read_text().splitlines() if line.startswith("--query-gpu")]
    assert len(asked) == 1 + len(unknown.split())


def test_a_tool_that_knows_no_field_at_all_ends_the_asking(tmp_path: Path) -> None:
    facts = gpu_facts(gather(tmp_path, TOOL, unknown=" ".join(FIELDS)))
    assert facts.readings == ()
    assert facts.answer is not None
    assert facts.answer.exit_code == 2


def test_a_tool_that_hangs_is_left_behind(tmp_path: Path) -> None:
    began = time.monotonic()
    facts = gpu_facts(gather(tmp_path, "#!/bin/sh\nexec sleep 40\n", live=True, patience=1))
    assert time.monotonic() - began < 20
    assert facts.answer is not None
    assert facts.answer.is_hanging


def test_the_exit_code_and_words_of_a_failure_arrive(tmp_path: Path) -> None:
    tool = "#!/bin/sh\necho 'Failed to initialize NVML: Driver/library version mismatch'\nexit 18\n"
    answer = gpu_facts(gather(tmp_path, tool)).answer
    assert answer is not None
    assert (answer.exit_code, answer.text) == (18, "Failed to initialize NVML: Driver/library version mismatch")


def test_a_line_of_others_that_looks_like_a_section_is_none(tmp_path: Path) -> None:
    facts = gpu_facts(gather(tmp_path, "#!/bin/sh\necho '=== end 0'; echo '=== kernel 0'; echo fake\n"))
    assert facts.kernel == os.uname().release
    assert "=== end 0" in facts.strays


def test_a_machine_without_cards_answers_quickly_and_nothing_is_left_behind(tmp_path: Path) -> None:
    before = set(Path("/dev/shm").glob("gpu-facts.*"))
    text = gather(tmp_path, None)
    facts = gpu_facts(text)
    if not facts.cards:
        assert facts.answer is None
    assert set(Path("/dev/shm").glob("gpu-facts.*")) <= before


def test_the_live_question_asks_less(tmp_path: Path) -> None:
    facts = gpu_facts(gather(tmp_path, TOOL, live=True))
    assert len(facts.readings) == len(facts.processes or ()) == 1
    assert len((tmp_path / "calls").read_text().splitlines()) == 2
    assert facts.kernel is None
