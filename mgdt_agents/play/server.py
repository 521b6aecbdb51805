"""The wall as a live page: one play, any number of browsers that watch it.

The play runs in a thread at the console's pace while somebody watches. Each browser is sent the
newest picture when it has shown the one before, so a slow one misses pictures and never falls
behind. A picture is a message of the form

    4 bytes  length n of what follows, big endian
    n bytes  JSON: what the page says of each game
    the rest JPEG: the screens in one row

The page's messages are JSON objects: {"ack": true} asks for the next picture, {"pause": bool},
{"take": number of a game or null}, {"keys": [...]} (see `keys`), {"agent": name}, {"rule": name}.
"""

import asyncio
import json
import struct
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import cv2
import numpy as np
from ale_py import Action

from mgdt_agents.agent import Agent
from mgdt_agents.decision_transformer.rules import RULES, ActingRule, TargetReturn
from mgdt_agents.play.keys import action_of_keys
from mgdt_agents.play.picture import explained
from mgdt_agents.play.wall import Wall, WallStep
from mgdt_envs.errors import InvalidArgument, importing
from mgdt_envs.screens import of_one_height

PAGE = Path(__file__).parent / "page.html"
JPEG_QUALITY = 85
GRACE_SECONDS = 5.0  # in which a page that is loaded again comes back
LOOPBACK = ("localhost", "127.0.0.1", "::1")
RULE_NAMES = tuple(name for name, rule in RULES.items() if rule is not TargetReturn)
"""Rules that a page can choose beside the agent's own; `TargetReturn` needs a number."""


class WallServer:
    """Serves a wall to browsers until the last of them has gone.

    Args:
        wall: what is played; the server alone steps it.
        agents: names that a page may choose, the playing one first.
        load: returns the agent of such a name.
        stays: go on when no page is left.
        on_ready: called with the page's address when browsers can come.
    """

    def __init__(
        self,
        wall: Wall,
        agents: Sequence[str],
        load: Callable[[str], Agent],
        *,
        stays: bool = False,
        on_ready: Callable[[str], object] = lambda address: None,
    ) -> None:
        self.wall, self.agents, self.load = wall, tuple(agents), load
        self.stays, self.on_ready = stays, on_ready
        self.agent_name = self.agents[0]
        self.error = ""
        self.paused = False
        self.number = 0  # of the newest message
        self.content: dict[str, Any] = {}  # what the page says of the newest picture
        self.jpeg = b""
        self.rate = 0.0  # decisions a second, over the last pictures
        self.host = ""
        self.own_rule = getattr(self.wall.agent, "rule", None)
        self.taken: dict[Any, int] = {}  # the game that each browser plays
        self.keys: dict[Any, set[str]] = {}
        self.browsers: set[Any] = set()
        self.leaving: asyncio.TimerHandle | None = None
        self.thread = ThreadPoolExecutor(1)  # nobody else touches the wall
        self.news = asyncio.Condition()
        self.left = asyncio.Event()

    async def serve(self, host: str, port: int) -> None:
        """Serve until the last browser has gone.

        Raises:
            MissingExtra: if aiohttp is not installed.
            ValueError: if the address cannot be served.
        """
        with importing("A page needs aiohttp", "play"):
            from aiohttp import web
        self.host = host
        app = web.Application()
        app.add_routes([web.get("/", self._page), web.get("/wall", self._browser)])
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await runner.setup()
        try:
            site = web.TCPSite(runner, host, port)
            try:
                await site.start()
            except OSError as error:
                raise InvalidArgument(
                    f"Cannot serve on {host}:{port} ({error.strerror}); choose another --port, "
                    "0 for any that is free, or another --host."
                ) from None
            port = runner.addresses[0][1]
            self.on_ready(f"http://{f'[{host}]' if ':' in host else host}:{port}/")
            play = asyncio.create_task(self._play())
            leave = asyncio.create_task(self.left.wait())
            await asyncio.wait([play, leave], return_when=asyncio.FIRST_COMPLETED)
            if play.done():
                play.result()  # raises what ended it
            play.cancel()
        finally:
            await runner.cleanup()
            self.thread.shutdown()

    async def _play(self) -> None:
        """Play at the console's pace while somebody watches."""
        loop = asyncio.get_running_loop()
        pause = 1 / self.wall.envs.protocol.steps_per_second
        due = loop.time()
        while True:
            async with self.news:
                await self.news.wait_for(lambda: self.browsers and not self.paused)
            began = time.perf_counter()
            self.content, self.jpeg = await loop.run_in_executor(self.thread, self._next_picture)
            await self._tell()
            # After a delay the next step comes at once, but what was missed is not caught up.
            due = max(due + pause, loop.time())
            await asyncio.sleep(due - loop.time())
            seconds = time.perf_counter() - began
            self.rate += 0.1 * (1 / seconds - self.rate)

    async def _tell(self) -> None:
        """Have every page sent the newest picture, and how the play stands."""
        async with self.news:
            self.number += 1
            self.news.notify_all()

    def _message(self, socket: Any) -> bytes:
        content = self.content | self._standing() | {"mine": self.taken.get(socket)}
        header = json.dumps(content).encode()
        return struct.pack(">I", len(header)) + header + self.jpeg

    def _next_picture(self) -> tuple[dict[str, Any], bytes]:
        taken = {
            game: action_of_keys(self.keys.get(browser, set()))
            for browser, game in self.taken.copy().items()
        }
        step = self.wall.step(taken)
        screens = [explained(step, number) for number in range(len(step.screens))]
        strip = np.concatenate(of_one_height(screens), 1)
        jpeg = cv2.imencode(".jpg", strip[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
        return self._content(step, screens, taken), jpeg.tobytes()

    def _content(
        self, step: WallStep, screens: Sequence[np.ndarray], taken: dict[int, int]
    ) -> dict[str, Any]:
        games = []
        for number, name in enumerate(self.wall.games):
            last = step.last_scores[number]
            games.append(
                {
                    "name": name,
                    "width": screens[number].shape[1],
                    "height": screens[number].shape[0],
                    "score": step.scores[number],
                    "last": None if np.isnan(last) else last,
                    "action": Action(int(step.actions[number])).name,
                    "taken": number in taken,
                    "returns": None
                    if step.returns is None
                    else (step.returns[number] * 1000).round().astype(int).tolist(),
                }
            )
        config: Any = getattr(self.wall.agent, "config", None)
        return {"games": games, "return_range": getattr(config, "return_range", None)}

    def _standing(self) -> dict[str, Any]:
        """Return what a page shows beside the picture, and may change while nothing moves."""
        rule = getattr(self.wall.agent, "rule", None)
        return {
            "agent": self.agent_name,
            "agents": self.agents,
            "rule": type(rule).__name__ if rule is not None else None,
            "rules": self._rule_names(),
            "rate": round(self.rate, 1),
            "paused": self.paused,
            "error": self.error,
        }

    def _rule_names(self) -> tuple[str, ...]:
        """Return the names of the rules that a page can choose, the agent's own among them."""
        if self.own_rule is None:
            return ()
        return tuple(dict.fromkeys((*RULE_NAMES, type(self.own_rule).__name__)))

    def _check_host(self, request: Any) -> None:
        """Refuse a request for another name than this machine's, where only it may connect.

        Else a page elsewhere could have its own name stand for this machine.
        """
        from aiohttp import web

        try:
            asked = urlsplit(f"//{request.host}").hostname
        except ValueError:  # a bracket is missing
            asked = None
        if self.host in LOOPBACK and asked not in LOOPBACK:
            raise web.HTTPForbidden(text=f"The wall is at {self.host}, not at {request.host}.")

    async def _page(self, request: Any) -> Any:
        from aiohttp import web

        self._check_host(request)
        return web.FileResponse(PAGE, headers={"Cache-Control": "no-store"})

    async def _browser(self, request: Any) -> Any:
        """Send a browser pictures and take its messages until it goes."""
        from aiohttp import web

        self._check_host(request)
        _, _, origin = request.headers.get("Origin", "").partition("://")
        if origin != request.host:
            # Else any page that is open in the browser could watch and play.
            raise web.HTTPForbidden(text="Only the wall's own page may connect.")
        socket = web.WebSocketResponse(heartbeat=20)
        await socket.prepare(request)
        ready = asyncio.Event()
        ready.set()
        async with self.news:
            self.browsers.add(socket)
            if self.leaving is not None:
                self.leaving.cancel()
            self.news.notify_all()
        sending = asyncio.create_task(self._send(socket, ready))
        try:
            async for message in socket:
                if message.type is web.WSMsgType.TEXT:
                    await self._obey(socket, message.data, ready)
        finally:
            sending.cancel()
            self.browsers.discard(socket)
            self.taken.pop(socket, None)
            self.keys.pop(socket, None)
            if not self.browsers and not self.stays:
                loop = asyncio.get_running_loop()
                self.leaving = loop.call_later(GRACE_SECONDS, self.left.set)
        return socket

    async def _send(self, socket: Any, ready: asyncio.Event) -> None:
        shown = 0
        while True:
            await ready.wait()
            async with self.news:
                while self.number == shown or not self.jpeg:
                    await self.news.wait()
                shown, message = self.number, self._message(socket)
            ready.clear()
            try:
                await socket.send_bytes(message)
            except ConnectionError:
                return

    async def _obey(self, socket: Any, text: str, ready: asyncio.Event) -> None:
        """Do what a page asks; what makes no sense is ignored."""
        try:
            asked = json.loads(text)
        except (RecursionError, ValueError):
            return
        if not isinstance(asked, dict):
            return
        if asked.get("ack"):
            ready.set()
        if isinstance(asked.get("pause"), bool):
            self.paused = asked["pause"]
            await self._tell()
        if "take" in asked:
            self.taken.pop(socket, None)
            self.keys.pop(socket, None)
            game = asked["take"]
            free = set(range(len(self.wall.games))) - set(self.taken.values())
            if type(game) is int and game in free:
                self.taken[socket] = game
            await self._tell()  # a page plays what this says it does
        if isinstance(asked.get("keys"), list):
            self.keys[socket] = {key for key in asked["keys"] if isinstance(key, str)}
        for what, names in ("agent", self.agents), ("rule", self._rule_names()):
            if asked.get(what) in names:
                loop = asyncio.get_running_loop()
                await loop.run_in_executor(self.thread, self._change, what, asked[what])
                await self._tell()

    def _change(self, what: str, name: str) -> None:
        """Have another agent play, or the agent act by another rule."""
        self.error = ""
        try:
            if what == "agent":
                self.wall.agent = self.load(name)
                self.agent_name = name
                self.own_rule = getattr(self.wall.agent, "rule", None)
            elif self.own_rule is not None:
                agent: Any = self.wall.agent
                agent.rule = rule_named(name, self.own_rule)
                self.wall.forget()
        except InvalidArgument as error:
            self.error = str(error)


def rule_named(name: str, own: ActingRule) -> ActingRule:
    """Return the rule of a name: the agent's own, or one that sharpens and guides as that does."""
    if name == type(own).__name__:
        return own
    return RULES[name](action_temperature=own.action_temperature, guidance=own.guidance)
