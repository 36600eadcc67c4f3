"""`/admin`: what a person does to a server that serves, under a key of its own. Seconds.

The key is checked before any route, by `Guard`. Nothing here makes a request fail.
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from . import admin_cards as cards
from . import tiers
from .admin_bodies import (
    ChangeCard,
    ReplicaCard,
    ReplicaList,
    ResizeRequest,
    TiersRequest,
    TierTable,
)
from .admin_query import check_names, query, seconds, switch
from .body import read
from .errors import ApiError, bad_field, shown
from .routes import gives, json, takes
from .site import Model, Site, site_of

if TYPE_CHECKING:
    from hfx.fleet.fleet import Fleet

T = TypeVar("T")
router = APIRouter(prefix="/admin", tags=["administration"])
log = logging.getLogger("hfx.serve")

_MOVE = query("move", "`true`: what it has begun goes on elsewhere at once.")
_TIMEOUT = query(
    "timeout", "Seconds for requests to end where they are; then they go on elsewhere."
)
_READY = query("ready_timeout", "Seconds for a process to become ready (600).")


@router.get(
    "/replicas", summary="Every replica, and the change under way",
    responses=gives(ReplicaList, 401, 404, 503),
)  # fmt: skip
async def replicas(request: Request) -> Response:
    site = site_of(request)
    model = site.opened()
    return json(cards.alone(site, model) if site.fleet is None else cards.replicas(site.fleet))


@router.post(
    "/replicas/{replica_id}/drain",
    summary="Give a replica nothing more; what it has begun it ends",
    openapi_extra={"parameters": [_MOVE, _TIMEOUT]},
    responses=gives(ReplicaCard, 400, 401, 404, 409, 503),
)
async def drain(request: Request, replica_id: str) -> Response:
    fleet = _fleet(request)
    check_names(request, "move", "timeout")
    move, timeout_s = switch(request, "move"), seconds(request, "timeout")
    number = _number(fleet, replica_id)
    _free(fleet, number)
    others = [m.id for m in fleet.members if m.phase == "ready" and m.id != number]
    if not others:
        raise _conflict(
            f"replica {number} can't be drained: no other is ready, and requests would wait in "
            "vain. Undrain another, or add one by /admin/resize",
            "last_replica",
        )
    fleet.drain_replica(number, move=move, timeout_s=timeout_s)
    _note(request, f"replica {number} is drained")
    return json(cards.replica(fleet, number))


@router.post(
    "/replicas/{replica_id}/undrain",
    summary="Let a replica take requests again; one left alone for dying is tried at once",
    responses=gives(ReplicaCard, 400, 401, 404, 409, 503),
)
async def undrain(request: Request, replica_id: str) -> Response:
    fleet = _fleet(request)
    check_names(request)
    number = _number(fleet, replica_id)
    _free(fleet, number)
    fleet.undrain_replica(number)
    _note(request, f"replica {number} is drained no more")
    return json(cards.replica(fleet, number))


@router.post(
    "/resize",
    summary="Have so many replicas: starts them, or drains and stops those with the highest ids",
    openapi_extra=takes(ResizeRequest, {"replicas": 4}) | {"parameters": [_TIMEOUT, _READY]},
    responses=gives(ChangeCard, 400, 401, 404, 409, 503, done=202),
)
async def resize(request: Request) -> Response:
    fleet = _fleet(request)
    times = _times(request)
    wanted = (await read(request, ResizeRequest)).replicas
    change = _begun(lambda: fleet.begin_resize(wanted, *times), "replicas")
    _note(request, f"{wanted} replicas are wanted, there are {len(fleet.members)}")
    return json(cards.change(fleet, change), 202)


@router.post(
    "/restart",
    summary="Replace every replica's process, one after the other",
    openapi_extra={"parameters": [_TIMEOUT, _READY]},
    responses=gives(ChangeCard, 400, 401, 404, 409, 503, done=202),
)
async def restart(request: Request) -> Response:
    fleet = _fleet(request)
    times = _times(request)
    change = _begun(lambda: fleet.begin_restart(*times), "restart")
    _note(request, f"rolling restart of {change.replicas} replicas")
    return json(cards.change(fleet, change), 202)


@router.get(
    "/restart", summary="How far the last rolling restart is",
    responses=gives(ChangeCard, 401, 404, 409, 503),
)  # fmt: skip
async def restarted(request: Request) -> Response:
    site_of(request).opened()
    fleet = _some(site_of(request))
    if fleet.last_restart is None:
        raise ApiError(404, "there was no rolling restart yet: POST /admin/restart begins one")
    return json(cards.change(fleet, fleet.last_restart))


@router.get(
    "/tiers", summary="The tiers as PUT takes them", responses=gives(TierTable, 401, 404, 503)
)
async def tier_table(request: Request) -> Response:
    return json(_table(site_of(request).opened()))


@router.put(
    "/tiers",
    summary="Offer other tiers to new requests; those under way keep what they were promised",
    openapi_extra=takes(TiersRequest, {"tiers": {"chat": {"ttft_ms": 500, "tpot_ms": 50}}}),
    responses=gives(TierTable, 400, 401, 404, 413, 503),
)
async def put_tiers(request: Request) -> Response:
    site = site_of(request)
    site.admitted()
    body = await read(request, TiersRequest)
    try:
        offered = tiers.offered(tiers.parse(body.tiers))
    except ValueError as error:
        message = f"tiers is {shown(body.tiers)}: it must be {error}"
        raise bad_field("tiers", message, "invalid") from None
    model = site.admitted()  # nothing awaits from here on
    model.tier_metrics.offer(offered)
    site.model = replace(model, tiers=offered)
    _note(request, f"tiers are {', '.join(offered)}")
    for warning in filter(None, (each.warning for each in site.model.reach())):
        log.warning("%s", warning)
    return json(_table(site.model))


def _table(model: Model) -> dict[str, Any]:
    configured = [tier for tier in model.tiers.values() if tier not in tiers.BUILT_IN]
    return {
        "object": "tiers",
        "tiers": {tier.name: tiers.document(tier) for tier in configured},
        "offered": [each.card for each in model.reach()],
    }


def _fleet(request: Request) -> "Fleet":
    """The fleet of a server that serves.

    Raises:
        ApiError: 503 while it does not, 409 where it has no replicas.
    """
    site = site_of(request)
    site.admitted()
    return _some(site)


def _some(site: Site) -> "Fleet":
    if site.fleet is None:
        raise _conflict(
            "this server has one engine in its own process, and no replicas to change: start it "
            "with --replicas 2 or more, or with --launcher local",
            "no_replicas",
        )
    return site.fleet


def _number(fleet: "Fleet", text: str) -> int:
    ids = [member.id for member in fleet.members]
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else -1
    if number not in ids:
        raise ApiError(
            404,
            f"there is no replica {shown(text)}: there are {', '.join(map(str, ids))}",
            param="replica_id",
            code="replica_not_found",
        )
    return number


def _times(request: Request) -> tuple[float, float]:
    from hfx.fleet.operated import DRAIN_S, READY_S

    check_names(request, "timeout", "ready_timeout")
    drain_s, ready_s = seconds(request, "timeout"), seconds(request, "ready_timeout", least=1.0)
    return DRAIN_S if drain_s is None else drain_s, READY_S if ready_s is None else ready_s


def _free(fleet: "Fleet", number: int) -> None:
    _begun(lambda: fleet.check_free(number), "replica_id")


def _begun(begin: Callable[[], T], param: str) -> T:
    """What `begin` gives; 409 while another change is under way, 400 for what can't be."""
    from hfx.fleet.change import Busy

    try:
        return begin()
    except Busy as error:
        raise _conflict(str(error), "busy") from None
    except ValueError as error:
        raise bad_field(param, str(error), "invalid") from None


def _conflict(message: str, code: str) -> ApiError:
    return ApiError(409, message, code=code)


def _note(request: Request, what: str) -> None:
    log.info("admin %s: %s", request.scope.get("request_id"), what)
