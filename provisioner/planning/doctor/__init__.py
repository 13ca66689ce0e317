"""Is a hypervisor fit for the fleet's nodes? Everything that can be learnt of it, judged; pure."""

from __future__ import annotations

from provisioner.planning.doctor.facts import ApiSeen, DoctorFacts, Trouble
from provisioner.planning.doctor.report import CHECKS, WAYS_IN, DoctorReport, doctor_report

__all__ = ["CHECKS", "WAYS_IN", "ApiSeen", "DoctorFacts", "DoctorReport", "Trouble", "doctor_report"]
