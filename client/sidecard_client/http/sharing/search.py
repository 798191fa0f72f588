"""Find the HTTP clients inside an object, nearest first."""

import sys
from collections import deque
from collections.abc import Callable
from types import ModuleType
from typing import Any, Final

from sidecard_client.http.sharing.libraries import BEDROCK, LIBRARIES, http_client_classes, is_bedrock_client
from sidecard_client.http.sharing.references import is_plain, referred_by
from sidecard_client.http.sharing.sdks import Unshareable, prepare

MAX_OBJECTS: Final = 20_000
"""Limit of the objects that are looked at: an SDK's client has tens, a framework's agent some hundreds."""

MAX_SHOWN: Final = 8
"""How many attributes an error lists."""

_WITHOUT_TRANSPORTS: Final = {
    "aiobotocore": "aiobotocore",
    "aiohttp": "aiohttp",
    "boto3": "botocore",
    "botocore": "botocore",
    "curl_cffi": "curl_cffi",
    "grpc": "gRPC",
    "requests": "requests",
    "urllib3": "urllib3",
}
"""Libraries of other HTTP clients, by package."""


class Search:
    """One search. ``share`` is called once for each HTTP client; ``found`` counts them and what makes them later.

    ``replaces`` says that what is shared already is to be shared with another client of sidecard.
    """

    def __init__(self, share: Callable[[Any], None], *, replaces: bool) -> None:
        self.found = 0
        self._share = share
        self._replaces = replaces
        self._known: dict[int, Any] = {}
        """The objects that were found, by id: they stay alive, so that no other object gets an id of theirs."""
        self._shown: list[str] = []
        self._others: set[str] = set()
        self._faults: list[Exception] = []

    def run(self, target: object) -> None:
        """Search ``target`` and all that it refers to, up to `MAX_OBJECTS`."""
        classes = http_client_classes()
        todo = deque([("", target)])
        self._known[id(target)] = target
        while todo:
            path, value = todo.popleft()
            if isinstance(value, classes) or is_bedrock_client(value):
                self.found += 1
                self._share(value)
                continue

            self._prepare(value)
            classes = http_client_classes()  # what was prepared may have imported its library
            self._others.update(_other_library(value))
            for step, one in referred_by(value):
                if is_plain(one) or id(one) in self._known or len(self._known) >= MAX_OBJECTS:
                    continue

                self._known[id(one)] = one
                todo.append((path + step, one))
                if len(self._shown) < MAX_SHOWN:
                    self._shown.append(path + step)

    def _prepare(self, value: object) -> None:
        try:
            self.found += prepare(value, _Sharer(self._share, replaces=self._replaces))
        except Unshareable as error:
            self._faults.insert(0, error)
        except Exception as error:  # noqa: BLE001 - of the SDK, which another part of the object may not need
            self._faults.append(error)

    def failure(self, target: object) -> TypeError:
        """Return the error for a target without HTTP clients."""
        fault = self._faults[0] if self._faults else None
        if isinstance(fault, Unshareable):
            error = TypeError(f"{_name_of(target)} cannot be shared: {fault}")
        elif isinstance(target, type):
            error = TypeError(
                f"share() takes an object, not the class {target.__qualname__}: share({target.__qualname__}(...))."
            )
        else:
            error = TypeError(f"share() found nothing to share in {_name_of(target)}: {self._reasons(fault)}")

        error.__cause__ = fault
        return error

    def _reasons(self, fault: Exception | None) -> str:
        imported = [name for name in LIBRARIES if name in sys.modules]
        wanted = f"Client or AsyncClient of {' or '.join(imported or LIBRARIES)}"
        places = f" ({', '.join(self._shown)})" if self._shown else ""
        counted = f"{len(self._known)} object{'s' if len(self._known) > 1 else ''}"
        text = f"no {wanted} in it or in what it refers to: {counted}{places}."
        if not imported:
            text += " Neither httpx2 nor httpx is imported."

        if len(self._known) >= MAX_OBJECTS:
            text += " The search ended there; share the SDK's client inside it."

        if fault is not None:
            text += f" Making its client failed: {type(fault).__name__}: {fault}"

        if self._others:
            text += f" It uses {' and '.join(sorted(self._others))}, whose calls cannot be shared."
            if "botocore" in self._others:
                text += f" Of botocore, clients of {BEDROCK} can be shared."

        return f"{text} Share the object that holds the HTTP client, or use Client.call() around its methods."


class _Sharer:
    """Shares what an SDK makes, now or after the search."""

    def __init__(self, share: Callable[[Any], None], *, replaces: bool) -> None:
        self.replaces = replaces
        self._share = share

    def __call__(self, made: Any) -> None:
        Search(self._share, replaces=self.replaces).run(made)


def _other_library(value: object) -> set[str]:
    package = str(type(value).__module__).partition(".")[0]
    return {_WITHOUT_TRANSPORTS[package]} if package in _WITHOUT_TRANSPORTS else set()


def _name_of(target: object) -> str:
    if isinstance(target, ModuleType):
        return f"the module {target.__name__}"

    return f"{type(target).__module__}.{type(target).__qualname__}"
