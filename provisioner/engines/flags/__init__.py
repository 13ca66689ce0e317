"""Which flags, GPUs and drivers an engine's version takes: what is known of the released things themselves.

At `plan` a mode's arguments are held against the tables (`check_arguments`,
`check_gpu`), and what we set ourselves as well (`check_launch`); in the guest against the installed engine's own help
(`help_command`, `contradictions`). Pure, all of it.

To add a version: read its flags from the published package or its help, add it
to ``opened`` in the engine's file under ``data/``, and end or begin there the
ranges of the flags that went or came. A range ``a..b`` names opened versions,
both included; an open end is the table's own.
"""

from provisioner.engines.flags.check import canonical_arguments, check_arguments
from provisioner.engines.flags.help_text import (
    FOLDER,
    IMAGE,
    HelpFlag,
    HelpText,
    contradictions,
    flags_in_help,
    help_command,
    told_by_help,
)
from provisioner.engines.flags.launch import check_launch
from provisioner.engines.flags.names import replacement
from provisioner.engines.flags.problems import Fault, FlagProblem
from provisioner.engines.flags.quantization import quantization_floor, quantization_names
from provisioner.engines.flags.requirements import EngineRequirements, GpuProblem, check_gpu, engine_requirements

__all__ = [
    "FOLDER",
    "IMAGE",
    "EngineRequirements",
    "Fault",
    "FlagProblem",
    "GpuProblem",
    "HelpFlag",
    "HelpText",
    "canonical_arguments",
    "check_arguments",
    "check_gpu",
    "check_launch",
    "contradictions",
    "engine_requirements",
    "flags_in_help",
    "help_command",
    "quantization_floor",
    "quantization_names",
    "replacement",
    "told_by_help",
]
