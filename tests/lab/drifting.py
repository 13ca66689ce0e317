"""What tests of drift share: a person's changes to the first node's VM, and what a plan says of them."""

from __future__ import annotations

from provisioner.domain.actions import Plan, Step
from tests.lab.support import NODE, Site

CONFIG = "/nodes/pve1/qemu/5001/config"
FLAVOURS = ["8.4", "9.1"]


def drift(site: Site, **options: object) -> None:
    """Change the VM as root does by hand; what does not take effect at once waits."""
    site.lab.call("PUT", CONFIG, **options)


def drift_in_effect(site: Site, **options: object) -> None:
    """Change the VM and have it run, and serve, like that."""
    for act in ("stop", "start"):
        if act == "start":
            drift(site, **options)
        site.lab.finish(site.lab.call("POST", f"/nodes/pve1/qemu/5001/status/{act}"))
    site.fleet().wake(NODE)


def config(site: Site) -> dict[str, object]:
    return dict(site.lab.call("GET", CONFIG))


def step(plan: Plan, name: str) -> Step:
    return next(each for each in plan.steps if each.name == name)


def names(plan: Plan) -> list[str]:
    return [each.name for each in plan.steps]


def both_values(plan: Plan) -> dict[str, tuple[str, str]]:
    return {each.trait.value: (each.seen, each.wanted) for each in step(plan, "change").drifts}
