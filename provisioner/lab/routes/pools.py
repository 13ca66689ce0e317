"""Resource pools and their members."""

from __future__ import annotations

from typing import TYPE_CHECKING

from provisioner.lab.model import Pool
from provisioner.lab.refusals import failed
from provisioner.lab.routes import views
from provisioner.lab.routes.registry import Call, serves
from provisioner.lab.schema.formats import split_list

if TYPE_CHECKING:
    from provisioner.lab.core import Lab


@serves("GET", "/pools")
async def list_pools(lab: Lab, call: Call) -> object:
    """List pools the caller may see, or one with its members."""
    if "poolid" in call.params:
        lab.access.require(call.who, f"/pool/{call.text('poolid')}", "Pool.Audit")
        return [{"poolid": call.text("poolid"), **_pool_view(lab, _pool(lab, call), call)}]
    return [
        {"poolid": pool.name, **({"comment": pool.comment} if pool.comment else {})}
        for pool in lab.cluster.pools.values()
        if lab.access.may(call.who, f"/pool/{pool.name}", ("Pool.Audit",))
    ]


@serves("POST", "/pools")
async def create_pool(lab: Lab, call: Call) -> object:
    """Add a pool."""
    name = call.text("poolid")
    if name in lab.cluster.pools:
        raise failed(f"create pool failed: pool '{name}' already exists")
    lab.cluster.pools.save(name, Pool(name, call.text("comment") or None))
    lab.access.changed()
    return None


@serves("PUT", "/pools/{poolid}")
@serves("PUT", "/pools")
async def update_pool(lab: Lab, call: Call) -> object:
    """Add members to a pool, or take them out."""
    pool = _pool(lab, call)
    if "comment" in call.params:
        pool.comment = call.text("comment")
    removing = call.on("delete")
    for text in split_list(call.text("vms")):
        vmid = int(text)
        lab.access.require(call.who, f"/vms/{vmid}", "VM.Allocate")
        other = lab.cluster.pool_of(vmid)
        if removing:
            if vmid not in pool.vms:
                raise failed(f"update pool failed: VM {vmid} is not a pool member")
            pool.vms.remove(vmid)
            continue
        if other == pool.name:
            raise failed(f"update pool failed: VM {vmid} is already a pool member")
        if other is not None:
            if not call.on("allow-move"):
                raise failed(f"update pool failed: VM {vmid} belongs to pool '{other}' and 'allow-move' is not set")
            lab.cluster.pools[other].vms.remove(vmid)
            lab.cluster.pools.save(other, lab.cluster.pools[other])
        pool.vms.append(vmid)
    for name in split_list(call.text("storage")):
        lab.access.require(call.who, f"/storage/{name}", "Datastore.Allocate")
        if removing and name not in pool.storage:
            raise failed(f"update pool failed: Storage '{name}' is not a pool member")
        if removing:
            pool.storage.remove(name)
        elif name not in pool.storage:
            pool.storage.append(name)
    lab.cluster.pools.save(pool.name, pool)
    lab.access.changed()
    return None


@serves("DELETE", "/pools/{poolid}")
@serves("DELETE", "/pools")
async def delete_pool(lab: Lab, call: Call) -> object:
    """Remove an empty pool."""
    pool = _pool(lab, call)
    for member in [
        *(f"VM {vmid}" for vmid in sorted(pool.vms)),
        *(f"storage '{name}'" for name in sorted(pool.storage)),
    ]:
        raise failed(f"delete pool failed: pool '{pool.name}' is not empty (contains {member})")
    lab.cluster.pools.remove(pool.name)
    lab.access.changed()
    return None


@serves("GET", "/pools/{poolid}")
async def read_pool(lab: Lab, call: Call) -> object:
    """Return a pool with its members."""
    return _pool_view(lab, _pool(lab, call), call)


def _pool(lab: Lab, call: Call) -> Pool:
    pool = lab.cluster.pools.get(call.text("poolid"))
    if pool is None:
        raise failed(f"pool '{call.text('poolid')}' does not exist")
    return pool


def _pool_view(lab: Lab, pool: Pool, call: Call) -> dict[str, object]:
    wanted = call.params.get("type")
    members = [
        views.guest_resource(lab, lab.cluster.guests[str(vmid)], pool.name)
        for vmid in pool.vms
        if str(vmid) in lab.cluster.guests and wanted in (None, lab.cluster.guests[str(vmid)].kind)
    ]
    if wanted in (None, "storage"):
        node = next(iter(lab.cluster.nodes))
        members += [
            views.storage_resource(lab, lab.cluster.storages[name], node)
            for name in pool.storage
            if name in lab.cluster.storages
        ]
    view: dict[str, object] = {"members": members}
    return {**view, "comment": pool.comment} if pool.comment else view
