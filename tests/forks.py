"""Processes that start at once: forked from one that has imported what they need.

There is one such process for all tests, so that what it has to import is said in one place.
"""

from __future__ import annotations

import multiprocessing

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    ["tests.lab.preloaded", "provisioner.serving.process", "tests.lab.test_killed", "tests.bench.serving_site"]
)
