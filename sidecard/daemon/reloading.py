"""Load the settings again while the daemon runs, on SIGHUP or an operator's request."""

import asyncio
from collections import deque
from collections.abc import Callable

from msgspec import structs

from sidecard.config.model import Config
from sidecard.config.reload import reconfigure
from sidecard.core.effects import ReadSettings
from sidecard.core.events import SettingsRead
from sidecard.core.settings import StoreKind
from sidecard.errors import ConfigError
from sidecard.observe.logs import Log
from sidecard.persistence.worker import run_in_thread
from sidecard.server.driver import Driver


class Reloader:
    """The settings in effect, and requests to load them again.

    ``reread`` loads them, in a thread; ``driver`` and ``apply(before, after)`` receive the result; ``store`` is the engine's
    `StoreKind`. ``on_change(active)`` is called when a reload begins and ends.
    """

    def __init__(
        self,
        config: Config,
        reread: Callable[[], Config],
        log: Log,
        driver: Driver,
        store: StoreKind,
        *,
        apply: Callable[[Config, Config], None],
        on_change: Callable[[bool], None],
    ) -> None:
        self.config = config
        self._reread = reread
        self._log = log
        self._driver = driver
        self._store = store
        self._apply = apply
        self._on_change = on_change
        self._requests: deque[ReadSettings | None] = deque()
        self._requested = asyncio.Event()

    def request(self, effect: ReadSettings | None) -> None:
        """Load the settings soon. ``effect`` names the peer to reply to; None is a signal."""
        self._requests.append(effect)
        self._requested.set()

    async def run(self) -> None:
        """Serve requests one after another: the settings loaded last stay in effect."""
        while True:
            await self._requested.wait()
            self._requested = asyncio.Event()
            while self._requests:
                effect = self._requests.popleft()
                self._on_change(True)  # noqa: FBT003 - a callback's only argument
                await self._reload(None if effect is None else (effect.peer_id, effect.request_id))
                self._on_change(False)  # noqa: FBT003 - as above

    async def _reload(self, asked_by: tuple[int, int] | None) -> None:
        try:
            # In a thread: the file may be on a disk that hangs, and patterns and addresses take time to parse.
            loaded = await run_in_thread("sidecard-reload", self._reread, abandon=True)
            result = reconfigure(self.config, loaded)
        except ConfigError as error:
            self._log.write("error", "settings not changed", problems=list(error.problems))
            self._driver.handle(SettingsRead(problems=list(error.problems), asked_by=asked_by))
        except Exception as fault:  # noqa: BLE001 - a bug in loading must not end a daemon that serves
            self._log.write_fault("settings not changed", fault)
            self._driver.handle(SettingsRead(problems=[f"loading failed: {type(fault).__name__}"], asked_by=asked_by))
        else:
            before, self.config = self.config, result.config
            self._apply(before, self.config)
            self._log.write(
                "info", "settings loaded", changed=sorted(result.changed), needs_restart=result.needs_restart
            )
            self._driver.handle(
                SettingsRead(
                    structs.replace(self.config.engine_settings(), store=self._store),
                    self.config.shown(),
                    self.config.origins,
                    result.changed,
                    result.needs_restart,
                    asked_by=asked_by,
                )
            )
