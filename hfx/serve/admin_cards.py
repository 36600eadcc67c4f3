"""Replicas, and changes of a fleet, as `/admin` shows them."""

import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from hfx.config import EMULATED

from .site import Model, Site

if TYPE_CHECKING:
    from hfx.fleet.change import Change
    from hfx.fleet.fleet import Fleet
    from hfx.fleet.member import Member


def replicas(fleet: "Fleet") -> dict[str, Any]:
    """All of a fleet's."""
    return {
        "object": "list",
        "data": [_replica(member) for member in fleet.members],
        "unbound": fleet.desk.waiting,
        "change": None if fleet.change is None else change(fleet, fleet.change),
    }


def replica(fleet: "Fleet", replica_id: int) -> dict[str, Any]:
    """One of a fleet's; there is such a one."""
    return _replica(next(member for member in fleet.members if member.id == replica_id))


def change(fleet: "Fleet", change: "Change") -> dict[str, Any]:
    """How far a change is."""
    card = asdict(change)
    began_s, ended_s = card.pop("began_s"), card.pop("ended_s")
    card["took_s"] = round((fleet.clock.now_s() if ended_s is None else ended_s) - began_s, 3)
    card["error"] = change.error or None
    return card


def alone(site: Site, model: Model) -> dict[str, Any]:
    """The one engine of a server without replicas."""
    now = model.engine.stats()
    is_healthy = model.engine.is_healthy
    card: dict[str, Any] = {
        "id": 0,
        "state": "ready" if is_healthy else "stopped",
        "is_drained": False,
        "epoch": 1,
        "pid": os.getpid(),
        "device": site.device,
        "is_emulated": site.device.startswith(EMULATED),
        "requests": now.running + now.waiting,
        "running": now.running,
        "waiting": now.waiting,
        "free_blocks": now.free_blocks,
        "total_blocks": now.total_blocks,
        "restarts": 0,
        "deaths": {},
        "last_end": None,
        "slowdown": None,
        "loading": None,
    }
    return {"object": "list", "data": [card], "unbound": 0, "change": None}


def _replica(member: "Member") -> dict[str, Any]:
    life, standing = member.life, member.standing
    state = None if life is None else life.state
    view = None if standing is None else standing.view
    return {
        "id": member.id,
        "state": member.phase,
        "is_drained": member.is_drained,
        "epoch": member.epoch,
        "pid": None if life is None or life.handle is None else life.handle.pid,
        "device": member.device,
        "is_emulated": member.device.startswith(EMULATED),
        "requests": 0 if standing is None else len(standing.flights),
        "running": 0 if state is None else state.running,
        "waiting": 0 if state is None else len(state.queued),
        "free_blocks": None if view is None else view.free_blocks,
        "total_blocks": None if view is None else view.total_blocks,
        "restarts": max(0, member.starts - 1),
        "deaths": member.deaths,
        "last_end": member.last_death or None,
        "slowdown": None if standing is None else round(standing.factor, 3),
        "loading": member.loading or None,
    }
