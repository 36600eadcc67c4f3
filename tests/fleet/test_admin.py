"""`/admin` as an operator uses it: a real server over real processes, while streams go on."""

import itertools
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from hfx.serve.tiers import BUILT_IN

from .test_server import Server

ADMIN, CLIENT = "for-admin", "for-clients"
TOKENS = 64
KEY = {"Authorization": f"Bearer {ADMIN}"}
END_S = 60.0


class Load:
    """Streams that follow one another in several threads until told to end."""

    def __init__(self, server: Server, threads: int = 6) -> None:
        self.answers: list[Any] = []
        self._server = server
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(threads)]

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                self.answers.append(self._server.stream(max_tokens=TOKENS))
            except Exception as error:  # whatever a client sees counts
                self.answers.append(error)

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(END_S)
        assert not any(thread.is_alive() for thread in self._threads), "a stream hangs"


class Operator:
    """The administrator's side of a server."""

    def __init__(self, server: Server) -> None:
        self.server = server
        server.http.headers["Authorization"] = f"Bearer {CLIENT}"
        self.http = httpx.Client(base_url=f"{server.http.base_url}/admin", headers=KEY, timeout=60)

    def get(self, path: str) -> Any:
        answer = self.http.get(path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path: str, status: int = 200, document: object = None) -> Any:
        answer = self.http.post(path, json=document)
        assert answer.status_code == status, answer.text
        return answer.json()

    def replicas(self) -> dict[int, Any]:
        return {each["id"]: each for each in self.get("/replicas")["data"]}

    def states(self) -> dict[int, str]:
        return {id: each["state"] for id, each in self.replicas().items()}

    def until(self, condition: Any) -> None:
        end_s = time.monotonic() + END_S
        while not condition():
            assert time.monotonic() < end_s, self.get("/replicas")
            time.sleep(0.05)

    def resize(self, replicas: int) -> None:
        self.post("/resize?timeout=0.2", 202, {"replicas": replicas})
        self.until(lambda: self.states() == dict.fromkeys(range(replicas), "ready"))
        self.until(lambda: self.get("/replicas")["change"]["state"] == "done")

    def busiest(self) -> int:
        """A replica that computes something."""
        self.until(lambda: any(each["running"] for each in self.replicas().values()))
        return max(self.replicas().values(), key=lambda each: each["running"])["id"]


@pytest.fixture(scope="module")
def operator() -> Iterator[Operator]:
    server = Server(
        *("--device", "emulated:h100-llama3.1-8b", "--replicas", "2", "--replica-lease", "10"),
        *("--api-key", CLIENT, "--admin-key", ADMIN),
    )
    try:
        made = Operator(server)
        with made.http:
            made.until(lambda: made.states() == {0: "ready", 1: "ready"})
            yield made
            made.post("/restart", 202)  # the server ends in the middle of it
            made.until(lambda: made.get("/restart")["spare"] is not None)
    finally:
        pids = server.replicas()
        assert server.stop() == 0
        assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


@pytest.fixture(scope="module")
def expected(operator: Operator) -> tuple[str, str | None]:
    """What every stream says, as no disturbed server says it."""
    return operator.server.stream(max_tokens=TOKENS)


def test_a_rolling_restart_under_load_drops_and_repeats_nothing(
    operator: Operator, expected: Any
) -> None:
    pids = {each["pid"] for each in operator.replicas().values()}
    seen: list[dict[int, str]] = []
    with Load(operator.server) as load:
        operator.busiest()
        begun = operator.post("/restart?timeout=0.3", 202)
        refused = operator.post("/restart", 409)
        resized = operator.post("/resize", 409, {"replicas": 3})

        def is_over() -> bool:
            seen.append(operator.states())
            return operator.get("/restart")["state"] != "running"

        operator.until(is_over)

    change = operator.get("/restart")
    assert begun["state"] == "running" and refused["error"]["code"] == "busy"
    assert resized["error"]["code"] == "busy"
    assert (change["state"], change["done"], change["error"]) == ("done", [0, 1], None)
    assert min(list(states.values()).count("ready") for states in seen) >= 1
    replicas = operator.replicas()
    assert {id: each["restarts"] for id, each in replicas.items()} == {0: 1, 1: 1}
    assert not pids & {each["pid"] for each in replicas.values()}
    assert not any(each["deaths"] for each in replicas.values())
    assert len(load.answers) >= 6 and set(load.answers) == {expected}
    assert operator.server.metric("replica_restarts_total") == 2


def test_a_drained_replica_gets_nothing_and_its_streams_go_on(
    operator: Operator, expected: Any
) -> None:
    with Load(operator.server) as load:
        for how in ("", "?move=true", "?timeout=0.1"):
            id = operator.busiest()
            drained = operator.post(f"/replicas/{id}/drain{how}")
            assert (drained["state"], drained["is_drained"]) == ("draining", True)
            if how == "?move=true":
                assert drained["requests"] == 0
            operator.until(lambda id=id: operator.replicas()[id]["requests"] == 0)
            last = operator.post(f"/replicas/{1 - id}/drain", 409)
            assert last["error"]["code"] == "last_replica"
            done = len(load.answers)
            operator.until(lambda done=done: len(load.answers) >= done + 6)
            assert operator.replicas()[id]["requests"] == 0
            assert operator.post(f"/replicas/{id}/undrain")["state"] == "ready"
        operator.until(lambda: all(each["running"] for each in operator.replicas().values()))

    assert set(load.answers) == {expected}


def test_a_request_that_is_moved_there_and_back_is_told_once(
    operator: Operator, expected: Any
) -> None:
    moved = operator.server.metric("fleet_requests_resumed_total")
    with Load(operator.server, threads=2) as load:
        operator.busiest()
        for id in itertools.islice(itertools.cycle((0, 1)), 12):
            operator.post(f"/replicas/{id}/drain?move=true")
            operator.post(f"/replicas/{id}/undrain")

    assert set(load.answers) == {expected}
    assert operator.server.metric("fleet_requests_resumed_total") >= moved + 6
    assert not any(each["deaths"] for each in operator.replicas().values())


def test_a_fleet_is_resized_and_its_tiers_changed_under_load(
    operator: Operator, expected: Any
) -> None:
    api = operator.server.http
    with Load(operator.server) as load:
        operator.resize(3)
        put = operator.http.put("/tiers", json={"tiers": {"chat": {"ttft_ms": 90_000}}})
        assert put.status_code == 200
        operator.resize(1)
        stream = operator.server.stream(max_tokens=TOKENS, service_tier="chat")

    assert stream == expected and set(load.answers) == {expected}
    assert operator.get("/tiers") == put.json()
    names = {tier["name"] for tier in api.get("/v1/tiers").json()["data"]}
    assert names == {*(tier.name for tier in BUILT_IN), "chat"}
    assert 'hfx:slo_attainment{engine="0"' in api.get("/metrics").text
    operator.resize(2)


def test_a_promise_is_kept_although_its_tier_is_gone(operator: Operator) -> None:
    api = operator.server.http
    operator.http.put("/tiers", json={"tiers": {"brief": {"deadline_ms": 100_000}}})
    body = {"prompt": "Hello", "max_tokens": 150, "ignore_eos": True, "service_tier": "brief"}
    with api.stream("POST", "/v1/completions", json={**body, "stream": True}) as answer:
        lines = answer.iter_lines()
        first = next(lines)
        operator.http.put("/tiers", json={"tiers": {}})
        rest = "".join(lines)

    refused = api.post("/v1/completions", json=body)
    assert first.startswith("data: ") and '"service_tier":"brief"' in rest
    told = json.loads(rest.removesuffix("data: [DONE]").rpartition("data: ")[2])
    (promised,) = told["metrics"]["slo"]["targets"].values()
    assert (promised["target"], promised["met"]) == (100_000, True)
    assert refused.status_code == 400 and refused.json()["error"]["param"] == "service_tier"
