"""The live page's server, spoken to as a browser speaks to it."""

import asyncio
import json
import struct

import cv2
import numpy as np
import pytest

from mgdt_agents.decision_transformer import DecisionTransformerAgent, ExpertReturn, TargetReturn
from mgdt_agents.errors import AgentLoadError
from mgdt_agents.play import Wall, server
from mgdt_agents.play.server import WallServer
from mgdt_agents.random_agent import RandomAgent

aiohttp = pytest.importorskip("aiohttp")


def load(name):
    if name == "broken":
        raise AgentLoadError("<b>broken</b> cannot be loaded.")
    return RandomAgent()


@pytest.fixture(autouse=True)
def no_grace(monkeypatch):
    monkeypatch.setattr(server, "GRACE_SECONDS", 0.05)


def serve(talk, agent=None, **options):
    """Run `talk(session, address, server)` beside a server, which must have ended after it."""

    async def both():
        addresses = asyncio.Queue()
        wall = Wall(agent or RandomAgent(), ["Pong", "Breakout"], explain=True)
        wall_server = WallServer(
            wall, ["first", "random", "broken"], load, on_ready=addresses.put_nowait, **options
        )
        serving = asyncio.create_task(wall_server.serve("127.0.0.1", 0))
        async with aiohttp.ClientSession() as session:
            await talk(session, await addresses.get(), wall_server)
        await asyncio.wait_for(serving, 60)
        wall.close()

    asyncio.run(both())


def connect(session, address):
    return session.ws_connect(f"{address}wall", origin=address.rstrip("/"))


async def picture(socket):
    """Return the next picture's content and its screens."""
    message = await asyncio.wait_for(socket.receive_bytes(), 60)
    (length,) = struct.unpack_from(">I", message)
    jpeg = np.frombuffer(message, np.uint8, offset=4 + length)
    await socket.send_json({"ack": True})
    return json.loads(message[4 : 4 + length]), cv2.imdecode(jpeg, cv2.IMREAD_COLOR)


async def picture_where(socket, true):
    while True:
        content, screens = await picture(socket)
        if true(content):
            return content, screens


def test_pictures_and_the_page():
    async def talk(session, address, _):
        async with session.get(address) as page:
            assert page.status == 200
            assert "<title>mgdt: the wall</title>" in await page.text()
        async with connect(session, address) as socket:
            content, screens = await picture(socket)
            assert [game["name"] for game in content["games"]] == ["Pong", "Breakout"]
            assert screens.shape == (210, 320, 3)
            assert content["agent"] == "first"
            assert content["games"][0]["returns"] is None
            assert content["rules"] == []

    serve(talk)


def test_a_browser_is_sent_a_picture_when_it_has_shown_the_last():
    async def talk(session, address, wall_server):
        async with connect(session, address) as slow, connect(session, address) as fast:
            await slow.receive_bytes()  # and no word that it was shown
            for _ in range(5):
                await picture(fast)
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(slow.receive_bytes(), 0.3)

    serve(talk)


def test_people_take_games_over_and_give_them_back():
    async def talk(session, address, wall_server):
        async with connect(session, address) as one, connect(session, address) as other:
            await one.send_json({"take": 0})
            await one.send_json({"keys": ["up", "fire", 3]})
            content, _ = await picture_where(one, lambda c: c["games"][0]["action"] == "UPFIRE")
            assert content["games"][0]["taken"]
            assert content["mine"] == 0
            await other.send_json({"take": 0})  # is taken
            content, _ = await picture_where(other, lambda c: c["games"][0]["taken"])
            content, _ = await picture(other)
            assert content["mine"] is None
            await other.send_json({"take": 1})
            content, _ = await picture_where(one, lambda c: c["games"][1]["taken"])
            await picture_where(other, lambda c: c["mine"] == 1)
            assert wall_server.taken == {
                browser: game for game, browser in enumerate(wall_server.taken)
            }
            await one.send_json({"take": None})
            await picture_where(one, lambda c: not c["games"][0]["taken"])
            await other.close()
            await picture_where(one, lambda c: not c["games"][1]["taken"])

    serve(talk)


def test_pause():
    async def talk(session, address, wall_server):
        async with connect(session, address) as socket:
            await picture(socket)
            await socket.send_json({"pause": True})
            await asyncio.sleep(0.3)
            jpeg, number = wall_server.jpeg, wall_server.number
            await asyncio.sleep(0.3)
            assert (wall_server.jpeg, wall_server.number) == (jpeg, number)
            # Who comes now is told, and what is chosen meanwhile shows.
            await socket.send_json({"take": 1})
            await picture_where(socket, lambda c: c["mine"] == 1)
            async with connect(session, address) as other:
                content, _ = await picture(other)
                assert content["paused"]
                await other.send_json({"agent": "broken"})
                await picture_where(socket, lambda c: c["error"])
            assert wall_server.jpeg is jpeg
            await socket.send_json({"pause": False})
            await picture_where(socket, lambda c: not c["paused"])
            while wall_server.number < number + 4:
                await picture(socket)

    serve(talk)


def test_a_browser_that_dies_gives_its_game_back():
    async def talk(session, address, wall_server):
        async with connect(session, address) as stays:
            dies = await connect(session, address)
            await dies.send_json({"take": 1})
            await picture_where(stays, lambda c: c["games"][1]["taken"])
            dies._response.connection.transport.abort()  # no word of farewell
            await picture_where(stays, lambda c: not c["games"][1]["taken"])
            assert len(wall_server.browsers) == 1

    serve(talk)


def test_agents_and_rules_are_chosen():
    async def talk(session, address, wall_server):
        async with connect(session, address) as socket:
            content, _ = await picture(socket)
            assert content["rule"] == "ExpertReturn"
            assert "TargetReturn" not in content["rules"]
            assert abs(sum(content["games"][0]["returns"]) - 1000) < 70
            own = wall_server.wall.agent.rule
            await socket.send_json({"rule": "PredictedReturn"})
            await picture_where(socket, lambda c: c["rule"] == "PredictedReturn")
            rule = wall_server.wall.agent.rule
            assert rule.action_temperature == own.action_temperature == 0.3
            await socket.send_json({"rule": "ExpertReturn"})
            await picture_where(socket, lambda c: c["rule"] == "ExpertReturn")
            assert wall_server.wall.agent.rule is own
            await socket.send_json({"rule": "Greedy"})
            await picture_where(socket, lambda c: c["rule"] == "Greedy")
            await socket.send_json({"agent": "broken"})
            content, _ = await picture_where(socket, lambda c: c["error"])
            assert content["error"] == "<b>broken</b> cannot be loaded."
            assert content["agent"] == "first"
            await socket.send_json({"agent": "/etc/passwd"})  # not one of those on offer
            await socket.send_json({"agent": "random"})
            content, _ = await picture_where(socket, lambda c: c["agent"] == "random")
            assert not content["error"]
            assert content["rule"] is None

    rule = ExpertReturn(kappa=3, action_temperature=0.3)
    serve(talk, DecisionTransformerAgent("tiny", rule=rule, device="cpu"))


def test_the_agent_s_own_rule_can_be_chosen_again():
    async def talk(session, address, wall_server):
        async with connect(session, address) as socket:
            content, _ = await picture(socket)
            assert content["rule"] == "TargetReturn"
            for name in ("Greedy", "TargetReturn"):
                assert name in content["rules"]
                await socket.send_json({"rule": name})
                await picture_where(socket, lambda c, name=name: c["rule"] == name)
            assert wall_server.wall.agent.rule == TargetReturn(target=7)

    serve(talk, DecisionTransformerAgent("tiny", rule=TargetReturn(target=7), device="cpu"))


def test_a_page_that_is_loaded_twice_again_has_the_grace_twice(monkeypatch):
    monkeypatch.setattr(server, "GRACE_SECONDS", 2.0)

    async def talk(session, address, wall_server):
        for _ in range(2):
            async with connect(session, address) as socket:
                await picture(socket)
                closed = asyncio.get_running_loop().time()
            while wall_server.browsers:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.2)
        await wall_server.left.wait()
        assert asyncio.get_running_loop().time() - closed >= 2

    serve(talk)


def test_nonsense_is_ignored():
    async def talk(session, address, wall_server):
        async with connect(session, address) as socket:
            for text in (
                "",
                "[]",
                "3",
                "[" * 100_000,
                '{"take": "x"}',
                '{"take": 7}',
                '{"take": true}',
            ):
                await socket.send_str(text)
                await picture(socket)
                content, _ = await picture(socket)
                assert not any(game["taken"] for game in content["games"]), text

    serve(talk)


def test_another_page_of_the_browser_may_not_connect():
    async def talk(session, address, _):
        for origin in ("http://elsewhere.example", "http://[bad", None):
            with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
                await session.ws_connect(f"{address}wall", origin=origin)
        async with connect(session, address) as socket:
            await picture(socket)

    serve(talk)


def test_another_name_for_this_machine_is_refused():
    """A page elsewhere may have its own name stand for this machine."""

    async def talk(session, address, _):
        name = f"evil.example:{address.rsplit(':', 1)[1].strip('/')}"
        for foreign in (name, "[::1"):
            async with session.get(address, headers={"Host": foreign}) as page:
                assert page.status == 403
        with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
            await session.ws_connect(
                f"{address}wall", origin=f"http://{name}", headers={"Host": name}
            )
        async with connect(session, address) as socket:
            await picture(socket)

    serve(talk)


def test_stays_when_told_so():
    async def talk(session, address, wall_server):
        for _ in range(2):
            async with connect(session, address) as socket:
                await picture(socket)
            await asyncio.sleep(0.3)
        wall_server.left.set()

    serve(talk, stays=True)


def test_a_port_in_use():
    async def talk(session, address, _):
        port = int(address.rsplit(":", 1)[1].strip("/"))
        wall = Wall(RandomAgent(), ["Pong"])
        with pytest.raises(ValueError, match=rf"Cannot serve on 127.0.0.1:{port} .*--port"):
            await WallServer(wall, ["random"], load).serve("127.0.0.1", port)
        async with connect(session, address) as socket:
            await picture(socket)

    serve(talk)
