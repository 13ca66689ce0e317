"""All faults, room by room."""

from __future__ import annotations

from tests.lab.faults import cases_api, cases_cluster, cases_gpu, cases_guest, cases_tasks, cases_vm

CASES = (
    *cases_api.CASES,
    *cases_tasks.CASES,
    *cases_vm.CASES,
    *cases_gpu.CASES,
    *cases_cluster.CASES,
    *cases_guest.CASES,
)
