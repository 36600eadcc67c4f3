"""`/admin` of a server with one engine: its key, its refusals, tiers that change while it runs."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from hfx.config import HttpConfig
from hfx.serve.tiers import BUILT_IN, document, parse

from .conftest import Call, Stage

KEYS = {"api_key": ("client",), "admin_key": ("admin", "other")}
ADMIN = {"authorization": "Bearer admin"}
Play = Callable[..., None]


async def ask(
    stage: Stage,
    method: str,
    path: str,
    body: object = None,
    headers: dict[str, str] | None = None,
    query: str = "",
) -> tuple[int, Any]:
    call = Call(stage.app, method, path, body, ADMIN if headers is None else headers, query)
    answer = await call.answer()
    return call.status, answer


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/admin/replicas"),
        ("POST", "/admin/replicas/0/drain"),
        ("POST", "/admin/replicas/0/undrain"),
        ("POST", "/admin/resize"),
        ("GET", "/admin/restart"),
        ("POST", "/admin/restart"),
        ("GET", "/admin/tiers"),
        ("PUT", "/admin/tiers"),
        ("GET", "/admin/replicas/"),
        ("GET", "/admin"),
        ("GET", "/admin/no-such-thing"),
    ],
)
def test_admin_takes_its_own_key_only(play: Play, method: str, path: str) -> None:
    async def scene(stage: Stage) -> None:
        for header in ({}, {"authorization": "Bearer client"}, {"authorization": "Basic admin"}):
            status, answer = await ask(stage, method, path, headers=header)
            assert status == 401
            assert answer["error"]["code"] == "invalid_admin_key"
            assert answer["error"]["type"] == "authentication_error"
            assert "--admin-key" in answer["error"]["message"]

    play(scene, **KEYS)


def test_every_admin_key_is_good_and_none_is_one_of_clients(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        for key in ("admin", "other"):
            headers = {"authorization": f"Bearer {key}"}
            assert (await ask(stage, "GET", "/admin/tiers", headers=headers))[0] == 200
            assert (await ask(stage, "GET", "/v1/models", headers=headers))[0] == 401

    play(scene, **KEYS)


def test_without_an_admin_key_there_is_no_admin_and_it_says_which_option_helps(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        for headers in ({}, ADMIN, {"authorization": "Bearer client"}, {"authorization": "Bearer"}):
            status, answer = await ask(stage, "GET", "/admin/replicas", headers=headers)
            assert (status, answer["error"]["code"]) == (404, "admin_disabled")
            assert "--admin-key" in answer["error"]["message"]
            assert "HFX_ADMIN_KEY" in answer["error"]["message"]

    play(scene, api_key=("client",))


def test_an_admin_key_that_clients_have_is_refused_without_showing_it() -> None:
    with pytest.raises(ValueError, match="a key of its own") as refused:
        HttpConfig(api_key=("a", "secret"), admin_key=("secret",))
    assert "secret" not in str(refused.value)


def test_one_engine_is_shown_as_one_replica_that_nothing_can_be_done_to(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        status, answer = await ask(stage, "GET", "/admin/replicas")
        (only,) = answer["data"]
        assert (status, only["id"], only["state"]) == (200, 0, "ready")
        assert only["free_blocks"] == only["total_blocks"] > 0
        for method, path, body in (
            ("POST", "/admin/replicas/0/drain", None),
            ("POST", "/admin/replicas/0/undrain", None),
            ("POST", "/admin/resize", {"replicas": 2}),
            ("POST", "/admin/restart", None),
            ("GET", "/admin/restart", None),
        ):
            status, answer = await ask(stage, method, path, body)
            assert (status, answer["error"]["code"]) == (409, "no_replicas")
            assert "--replicas" in answer["error"]["message"]

    play(scene, **KEYS)


def test_tiers_change_for_new_requests_and_not_for_those_under_way(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        running = stage.complete({"authorization": "Bearer client"}, service_tier="chat")
        while not stage.engine.stats().running:
            stage.executor.release()
            await asyncio.sleep(0.001)
        new = {"batch": {"deadline_ms": 60000, "weight": 0.5, "may_refuse": True}}

        status, table = await ask(stage, "PUT", "/admin/tiers", {"tiers": new})

        assert status == 200
        assert table["tiers"] == {"batch": {**new["batch"], "may_relegate": True}}
        names = [*(tier.name for tier in BUILT_IN), "batch"]
        assert [tier["name"] for tier in table["offered"]] == names
        assert (await ask(stage, "GET", "/admin/tiers"))[1] == table
        client = {"authorization": "Bearer client"}
        listed = (await ask(stage, "GET", "/v1/tiers", headers=client))[1]["data"]
        assert [tier["name"] for tier in listed] == names
        assert b'hfx:slo_attainment{engine="0",model_name="letters",rule="mean",tier="batch"}' in (
            stage.exposition
        )
        gone = await stage.complete(client, service_tier="chat").answer()
        assert gone["error"]["param"] == "service_tier"
        stage.executor.release(10)
        kept = await running.answer()
        assert kept["service_tier"] == "chat"
        (promised,) = kept["metrics"]["slo"]["targets"].values()
        assert (promised["target"], promised["met"]) == (60000, True)
        done = await stage.complete(client, service_tier="batch").answer()
        assert done["service_tier"] == "batch"

    play(scene, **KEYS)


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        ({}, "tiers", "required"),
        ({"tiers": []}, "tiers", "dictionary"),
        ({"tiers": {"chat": {"ttft_ms": -1}}}, "tiers", "-1"),
        ({"tiers": {"chat": {"ttft_ms": 500}, "b": {"speed": 1}}}, "tiers", "speed"),
        ({"tiers": {"auto": {}}}, "tiers", "auto"),
        ({"tiers": {"a b": {}}}, "tiers", "a b"),
        ({"tiers": {f"t{n}": {} for n in range(33)}}, "tiers", "32"),
        ({"tiers": {}, "replicas": 2}, "replicas", "2"),
    ],
)
def test_tiers_are_checked_whole_before_anything_changes(
    play: Play, body: Any, param: str, says: str
) -> None:
    async def scene(stage: Stage) -> None:
        before = (await ask(stage, "GET", "/admin/tiers"))[1]

        status, answer = await ask(stage, "PUT", "/admin/tiers", body)

        assert (status, answer["error"]["param"]) == (400, param)
        assert says in answer["error"]["message"]
        assert (await ask(stage, "GET", "/admin/tiers"))[1] == before

    play(scene, **KEYS)


def test_what_get_gives_put_takes(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        before = (await ask(stage, "GET", "/admin/tiers"))[1]

        again = await ask(stage, "PUT", "/admin/tiers", {"tiers": before["tiers"]})

        assert again == (200, before)

    play(scene, **KEYS)
    tiers = parse({"a": {"ttft_ms": 0.1, "tpot_ms": 33.3, "weight": 2}, "b": {"deadline_ms": 7}})
    assert parse({tier.name: document(tier) for tier in tiers}) == tiers


def test_nothing_changes_while_the_server_stops(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        stage.site.lifecycle.state = "draining"
        for path in ("/admin/replicas", "/admin/tiers"):
            assert (await ask(stage, "GET", path))[0] == 200
        assert (await ask(stage, "PUT", "/admin/tiers", {"tiers": {}}))[0] == 503
        assert (await ask(stage, "POST", "/admin/restart"))[0] == 503

    play(scene, **KEYS)


def test_docs_describe_admin(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        status, schema = await ask(stage, "GET", "/openapi.json")
        assert status == 200
        paths = {path for path in schema["paths"] if path.startswith("/admin/")}
        assert paths == {
            *("/admin/replicas", "/admin/resize", "/admin/restart", "/admin/tiers"),
            *("/admin/replicas/{replica_id}/drain", "/admin/replicas/{replica_id}/undrain"),
        }
        assert "ResizeRequest" in schema["components"]["schemas"]
        page = Call(stage.app, "GET", "/docs")
        await page.task
        text = page.body.decode()
        assert "-X PUT" in text and "/admin/tiers" in text and "ready_timeout" in text

    play(scene, **KEYS)
