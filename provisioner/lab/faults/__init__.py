"""A plan of things that go wrong, for tests of those who must cope.

A plan is a list of rules, or a mapping of `seed` (for chances and random
delays) and `rules`. Every rule has one trigger, may be limited, and says what
goes wrong. All rules that fit act; the first that ends a request or a task
decides how it ends.

Triggers, exactly one kind a rule::

    {method: POST, path: /status/start}     # requests: method, and a regular expression somewhere in the path
    {task: qmstart}                         # tasks: a regular expression that fits the whole type
    {guest: never_boots}                    # a guest at power on: see GUEST_FAULTS

Limits, all optional::

    vmid: 5001      # only this VM: in the path of a request, the id of a task, the guest
    node: pve1      # only this server
    skip: 1         # spare the first one that fits
    times: 2        # act twice, then never again
    chance: 0.3     # act on three of ten that fit, by the plan's seed

What goes wrong with a request::

    delay: 3.5                              # seconds; or one of
    delay: {uniform: [0.1, 0.4]}
    delay: {exponential: 0.2}
    delay: {lognormal: {median: 0.05, sigma: 1.2}}
    delay: {one_of: [0.0, 0.0, 2.5]}
    status: 596                             # with `reason`, the text behind it
    says: no_quorum                         # a refusal in Proxmox's own words: see REASONS
    drop: before                            # hang up; "after": done, but nobody hears of it
    answers: html                           # 200 with something else: html, nothing, garbage, truncated
    work: done                              # with status, says, answers: it happened all the same

What goes wrong with a task (`delay`, `says` and `work` too)::

    fails: "got timeout"                    # the exit status
    ends: unexpected status                 # the exit status of a worker that died; the work may be `done`
    hangs: true                             # runs until somebody stops it
    warns: true                             # or the warnings' text: ends in WARNINGS: n
    vanishes: true                          # its record is gone once it has ended

And what happens to the cluster when a request or task comes along, before it is looked at (see HAPPENINGS)::

    happens: quorum_lost
    happens: {vmid_taken: {vmid: 5001, name: nextcloud}}
"""

from __future__ import annotations

from provisioner.lab.faults.plan import FaultPlan
from provisioner.lab.faults.reasons import REASONS
from provisioner.lab.faults.rules import GUEST_FAULTS, FaultRule

__all__ = ["GUEST_FAULTS", "REASONS", "FaultPlan", "FaultRule"]
