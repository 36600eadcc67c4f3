"""Messages that cross a network: who has no key is not heard, and who listens reads nothing."""

import asyncio
from typing import Any

import pytest
import zmq

from hfx.fleet.cipher import connect_encrypted
from hfx.fleet.hub import Hub

from .conftest import in_loop, until

SECRET = b"the prompt of somebody " * 4


def connected(endpoint: str, key: str) -> zmq.Socket[Any]:
    socket = zmq.Context.instance().socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 0)
    connect_encrypted(socket, key)
    socket.connect(endpoint)
    return socket


@pytest.mark.parametrize("key", ["", "another"])
def test_a_stranger_is_not_heard(key: str) -> None:
    async def test() -> None:
        heard: list[bytes] = []
        hub = Hub("tcp://127.0.0.1:*", lambda _, data: heard.append(data))
        stranger_key = zmq.curve_keypair()[0].decode() if key else ""
        stranger, friend = connected(hub.bound, stranger_key), connected(hub.bound, hub.key)
        stranger.send(b"I am replica 0")
        friend.send(b"I am")

        await until(lambda: heard)
        await asyncio.sleep(0.2)

        assert heard == [b"I am"]
        stranger.close()
        friend.close()
        hub.close()

    in_loop(test())


def test_what_is_on_the_wire_can_not_be_read() -> None:
    async def test() -> None:
        heard: list[bytes] = []
        hub = Hub("tcp://127.0.0.1:*", lambda _, data: heard.append(data))
        wire = bytearray()

        async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            port = int(hub.bound.rpartition(":")[2])
            from_hub, to_hub = await asyncio.open_connection("127.0.0.1", port)

            async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
                while data := await source.read(65536):
                    wire.extend(data)
                    target.write(data)
                target.close()

            await asyncio.gather(copy(reader, to_hub), copy(from_hub, writer))

        server = await asyncio.start_server(relay, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        replica = connected(f"tcp://127.0.0.1:{port}", hub.key)
        replica.send(SECRET)

        await until(lambda: heard)

        assert heard == [SECRET]
        assert len(wire) > len(SECRET) and b"prompt" not in wire
        replica.close()
        hub.close()
        server.close()
        await asyncio.sleep(0.1)

    in_loop(test())
