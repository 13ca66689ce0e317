"""`provisioner serve`: wires the one process, runs it, and ends it without cutting anybody off."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import signal
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import uvicorn

from provisioner.adapters.storage.ledger import SqliteLedger
from provisioner.api.app import PRIVATE, Api
from provisioner.api.control import AboutUs, Control
from provisioner.domain.callers import Callers
from provisioner.domain.events import Kind, NewEntry
from provisioner.domain.service import ListenAddress, ServiceSpec
from provisioner.errors import InputError
from provisioner.fleet import Fleet
from provisioner.gateway.app import Gateway
from provisioner.gateway.server_protocol import GuardedHttp
from provisioner.gateway.wakes import WakeDesk
from provisioner.page.app import Page
from provisioner.page.door import BrowserDoor
from provisioner.services.journaling import Journal
from provisioner.services.keeper import Keeper
from provisioner.services.resuming import Resuming
from provisioner.serving.acts import FleetActs
from provisioner.serving.door import known_callers, listening, only_one, private_socket, require_closed_or_private
from provisioner.serving.figures import Counts, Figures
from provisioner.serving.hosts import HostGuard
from provisioner.serving.loops import Loops
from provisioner.serving.pages import Pages
from provisioner.serving.power import KeysOfFleet, ServicePower, from_threads
from provisioner.serving.registrar import Registrar
from provisioner.serving.supervisor import tell_supervisor
from provisioner.serving.waker import NodeWaker

# Between two requests of a client that keeps its connection; longer than proxies keep theirs, so that it is they who
# end it and no request meets a connection that is just being closed.
_KEEP_ALIVE_SECONDS = 75
_FIRST_LOOK_SECONDS = 5.0
# A request that is held takes two, and a shell usually allows 1,024. Not more: what selects by number gets no further.
_MOST_FILES = 65_536
# Work that was begun gets at least this when requests have used up the time of the drain.
_LAST_SECONDS = 1.0
_GATEWAYS = ("/v1/", "/ollama/")


@dataclass(frozen=True, slots=True)
class Running:
    """A service that listens."""

    url: str
    address: ListenAddress


class Service:
    """One service over one fleet."""

    def __init__(self, fleet: Fleet, listen: ListenAddress | None = None) -> None:
        self._fleet = fleet
        self._spec: ServiceSpec = fleet.spec.service
        self._listen = listen or self._spec.listen

    def run(self, on_ready: Callable[[Running], None]) -> None:
        """Serve until SIGTERM or SIGINT; a second one ends it at once.

        Raises:
            InputError: a token, a certificate or the address cannot be used.
            RefusedError: another service runs, or anybody could come in.
        """
        callers = known_callers(self._spec)
        require_closed_or_private(self._listen, callers)
        keys = KeysOfFleet(self._fleet.spec, self._fleet.world)
        tls = self._tls()
        allow_many_files()
        with ExitStack() as stack:
            folder = self._fleet.settings.state_folder
            stack.enter_context(only_one(folder))
            public = listening(self._listen)
            stack.callback(public.close)
            private = stack.enter_context(private_socket(folder))
            bound = ListenAddress(self._listen.ip, public.getsockname()[1])
            running = Running(f"{'https' if tls else 'http'}://{bound}", bound)
            with asyncio.Runner(loop_factory=_new_loop) as runner:
                runner.run(self._serve(callers, keys, public, private, running, on_ready))

    async def _serve(
        self,
        callers: Callers,
        keys: KeysOfFleet,
        public: socket.socket,
        private: socket.socket,
        running: Running,
        on_ready: Callable[[Running], None],
    ) -> None:
        world, spec = self._fleet.world, self._spec
        counts = Counts(self._fleet)
        journal, in_flight = Journal(world.events, world.clock, counts.tally.see), world.in_flight
        keeper = Keeper(self._fleet.spec, world, journal)
        waker = NodeWaker(
            lambda node, told, still_wanted: self._fleet.wake_report(node, on_event=told, still_wanted=still_wanted),
            world.clock,
            keeper,
            journal,
            in_flight,
        )
        resuming = Resuming(self._fleet.spec, world, keeper)
        desk = WakeDesk(waker)
        kept = SqliteLedger(self._fleet.settings.state_folder / "provisioner.sqlite")
        ledger = counts.ledger(kept)
        gateway = Gateway(
            self._fleet.spec,
            world.engines,
            power=ServicePower(keeper, desk),
            flight=in_flight,
            callers=callers,
            keys=keys,
            ledger=ledger,
        )
        about = AboutUs(version("provisioner"), str(self._fleet.spec.path.resolve()), os.getpid(), world.clock.now())
        acts = FleetActs(
            self._fleet, keeper, in_flight, gateway.table, gateway.parts.health.trouble, from_threads(desk)
        )
        control = Control(
            self._fleet.spec,
            keeper,
            journal,
            acts,
            desk,
            waker.reports,
            in_flight,
            about,
            ledger,
            limits=gateway.parts.limits,
        )
        figures = Figures(
            self._fleet,
            counts,
            keeper,
            acts.looks,
            control,
            held_bytes=lambda: gateway.parts.held,
            version=about.version,
        )
        api = Api(control, callers, about.version, figures.watching)
        pages = Pages(
            self._fleet, control, callers, kept, figures.gauging, models=gateway.table.names, version=about.version
        )

        def gauge() -> None:
            figures.gauging.gauge()
            pages.turn()

        loops = Loops(
            keeper,
            idle_pass=lambda: control.idle_pass("schedule"),
            forget=lambda: journal.forget(older_than_seconds=spec.keep_events_seconds),
            look_every_seconds=spec.look_every_seconds,
            idle_every_seconds=spec.idle_every_seconds,
            after_look=figures.times.turn,
            gauge=gauge,
            gauge_every_seconds=spec.figures_every_seconds,
            timings=counts.loops,
        )
        registrar = Registrar(self._fleet.spec, world, keeper, journal)
        app = Dispatcher(api, gateway, pages.page)
        door = BrowserDoor(app, callers, world.clock.now, is_gateway=is_gateway)
        guarded: Any = HostGuard(app, running.address) if callers.are_open else door
        servers = (
            _Server(_config(guarded, spec, tls=True), public),
            _Server(_config(_private(app), spec, tls=False), private),
        )
        stopping = asyncio.Event()
        with _signals(stopping.set):
            journal.start()
            journal.add(NewEntry(Kind.SERVICE, phase="started", detail=running.url))
            # What is asked first should find what is there; a cluster that is away is not waited for.
            first = asyncio.ensure_future(asyncio.to_thread(_look_around, keeper, resuming))
            await asyncio.wait([first], timeout=_FIRST_LOOK_SECONDS)
            loops.start()
            await gateway.start()
            serving = [asyncio.ensure_future(server.serve_here()) for server in servers]
            await asyncio.wait([asyncio.ensure_future(server.is_open.wait()) for server in servers])
            on_ready(running)
            tell_supervisor("READY=1")
            registrar.start()
            await stopping.wait()
            tell_supervisor("STOPPING=1")
            journal.add(NewEntry(Kind.SERVICE, phase="draining", detail="asked to stop"))
            control.is_draining = True
            loops.stop()
            registrar.stop()
            drained_by = asyncio.get_running_loop().time() + spec.drain_seconds
            for server in servers:
                server.should_exit = True
            await asyncio.gather(*serving)
            await control.finish(max(drained_by - asyncio.get_running_loop().time(), _LAST_SECONDS))
            await gateway.close()
            await control.in_thread(figures.times.keep)
            await control.in_thread(acts.close)
            ledger.close()
            await control.in_thread(counts.close)
            journal.add(NewEntry(Kind.SERVICE, phase="ended"))
            journal.close()

    def _tls(self) -> bool:
        files = self._spec.tls
        if files is None:
            return False
        try:
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(files.certificate, files.key)
        except (OSError, ssl.SSLError) as error:
            raise InputError(
                f"cannot use the certificate: {error.strerror or error}",
                subject=f"{files.certificate} with key {files.key}",
                next_step="both in PEM form, made for each other, readable for the service",
            ) from error
        return True


class Dispatcher:
    """Sends a request to the part of the process that it is for."""

    def __init__(self, api: Api, gateway: Gateway, page: Page) -> None:
        self._api = api
        self._gateway = gateway
        self._page = page

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        path = scope["path"]
        part: Any = self._gateway if is_gateway(path) else self._page if Page.has(path) else self._api
        await part(scope, receive, send)


def is_gateway(path: str) -> bool:
    """Say whether a path is the gateway's."""
    return path.startswith(_GATEWAYS) or path == "/ollama"


class _Server(uvicorn.Server):
    """uvicorn on a socket of ours, beside another and without its own handling of signals."""

    def __init__(self, config: uvicorn.Config, opened: socket.socket) -> None:
        super().__init__(config)
        self._opened = opened
        self.is_open = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so."""
        await super().startup(sockets)
        self.is_open.set()

    async def serve_here(self) -> None:
        """Serve until `should_exit`; then finish what is being answered."""
        await self.serve([self._opened])

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the process."""
        yield


class _BrokenOff(logging.Filter):
    """Keeps back uvicorn's complaint about answers that the gateway breaks off: the ledger says why it did."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let all else pass."""
        return "without completing response" not in record.getMessage()


_BROKEN_OFF = _BrokenOff()


def _config(app: Any, spec: ServiceSpec, *, tls: bool) -> uvicorn.Config:
    files = spec.tls if tls else None
    logging.getLogger("uvicorn.error").addFilter(_BROKEN_OFF)
    return uvicorn.Config(
        app,
        lifespan="off",
        ws="none",
        http=GuardedHttp,
        log_config=None,
        access_log=False,
        server_header=False,
        # Whoever stands in front of us may say anything about whom it speaks for.
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=max(int(spec.drain_seconds), 1),
        ssl_certfile=files.certificate if files else None,
        ssl_keyfile=files.key if files else None,
    )


def _look_around(keeper: Keeper, resuming: Resuming) -> None:
    keeper.look()
    resuming.begin()


def _private(app: Any) -> Any:
    async def marked(scope: Any, receive: Any, send: Any) -> None:
        scope[PRIVATE] = True
        await app(scope, receive, send)

    return marked


def allow_many_files() -> None:
    """Let this process open as many connections as whoever started it lets it allow itself."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        # systemd's filter may forbid it; there the unit says how many.
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _new_loop() -> asyncio.AbstractEventLoop:
    import uvloop

    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


@contextmanager
def _signals(stop: Callable[[], None]) -> Iterator[None]:
    """Stop cleanly at the first signal, at once at the second."""
    loop = asyncio.get_running_loop()
    seen = 0

    def heard() -> None:
        nonlocal seen
        seen += 1
        if seen > 1:
            # Everything can be continued: what is kept is kept at once.
            os._exit(130)
        stop()

    for each in (signal.SIGTERM, signal.SIGINT):
        # Tests run services in threads, where there are no signals.
        with suppress(ValueError, RuntimeError):
            loop.add_signal_handler(each, heard)
    yield
