"""``python -m provisioner``."""

from __future__ import annotations

from provisioner.cli.app import main

main()
