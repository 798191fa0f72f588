"""The interface of an API: which requests are its own, what makes their keys, how answers are judged. Pure.

Each API is an `ApiFamily`, in a file of its own in ``families/``, which `recognition` finds by itself:

1. `ApiFamily.claims` sees the request's head only (`RequestTarget`). If no family claims a request, its body is never read.
2. `ApiFamily.read` turns the body into what is asked (`ApiRequest`), or returns None: the request then passes through as well.
3. `ApiFamily.reader` judges the answer while it passes by (`AnswerReader`), and ends in an `AnswerSummary`.

Bodies may be anything (JSON, forms, files), and so may answers (JSON, event streams, audio): a family that is not JSON implements
these three methods itself. JSON families derive from `request_bodies.json_family.JsonFamily`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Any, ClassVar, Final, Literal, Self
from urllib.parse import urlsplit

from msgspec import Struct

from sidecard_client.keys.prefixes.recipe import PromptPart
from sidecard_client.protocol.wire import FailureKind, Usage

SideEffect = Literal["", "state", "tool"]
"""What a request changes besides getting an answer: something kept by the server, or the world, through a tool that acts."""

Verdict = Literal["complete", "request_error", "server_error", "unproven", "unclassifiable"]
"""What an answer of status 2xx is.

================== =====================================================================================================
verdict            the answer
================== =====================================================================================================
``complete``       is known to be whole
``request_error``  contains an error that the request caused; equal requests would meet it again
``server_error``   contains any other error
``unproven``       has the API's content type and shape, but nothing proves that it is whole
``unclassifiable`` is none of the API's, as far as it can be read
================== =====================================================================================================
"""

NotStored = Literal[
    "", "length", "refusal", "filter", "pause", "incomplete", "error", "dialect", "policy", "state", "tool", "size"
]
"""Why an answer is not stored; empty if it may be.

=============== ========================================================================================================
reason          the answer, or its request
=============== ========================================================================================================
``length``      was cut at its maximum length
``refusal``     is a refusal of the model
``filter``      was filtered
``pause``       is to be continued by another request
``incomplete``  is not known to be whole
``error``       contains an error
``dialect``     cannot be read, or says something unknown
``policy``      may not be stored by the app's or the server's policy
``state``       changes what the server keeps
``tool``        may act through a tool
``size``        is too large
=============== ========================================================================================================
"""

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}

NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})


class RequestTarget(Struct, frozen=True):
    """The head of a request: everything that is known without its body."""

    method: str
    """In upper case."""
    scheme: str
    hostname: str
    """In lower case, without the port."""
    path: str
    """As it is sent, percent-encoded."""
    query: str = ""
    port: int | None = None
    """None for the scheme's own."""
    content_type: str = ""
    length: int | None = None
    """The body's length in bytes, if the head names it."""
    declared: str = ""
    """The family that the app declared for this path; empty if it declared none."""

    @classmethod
    def of(cls, method: str, url: str, content_type: str = "", length: int | None = None) -> Self | None:
        """Return the target of a URL; None if that is none: the inner transport raises the library's own error."""
        try:
            parsed = urlsplit(url)
            port = parsed.port
        except ValueError:
            return None

        if not parsed.hostname:
            return None

        if port == _DEFAULT_PORTS.get(parsed.scheme):
            port = None

        path = parsed.path or "/"
        return cls(method.upper(), parsed.scheme, parsed.hostname, path, parsed.query, port, content_type, length)

    @property
    def host(self) -> str:
        """The name with the port, unless that is the scheme's own."""
        named = f"[{self.hostname}]" if ":" in self.hostname else self.hostname
        return named if self.port is None else f"{named}:{self.port}"

    @property
    def url(self) -> str:
        """The URL in its one form, which is part of the key."""
        return f"{self.scheme}://{self.host}{self.path}?{self.query}"

    @property
    def media_type(self) -> str:
        """The content type without its parameters, in lower case."""
        return media_type_of(self.content_type)

    def is_at(self, hosts: tuple[str, ...]) -> bool:
        """Return whether the host is one of these; one that begins with a dot matches all hosts below it."""
        return any(self.hostname.endswith(host) if host.startswith(".") else self.hostname == host for host in hosts)


def media_type_of(content_type: str) -> str:
    """Return a content type without its parameters, in lower case."""
    return content_type.partition(";")[0].strip().lower()


class ApiRequest(Struct, frozen=True):
    """What a request asks for. No field contains a credential."""

    model: str
    """Empty if the request names none."""
    body: Any
    """What of the body makes the key: plain values that msgpack can express."""
    stream: bool = False
    deterministic: bool = False
    """The same request is meant to get the same answer: temperature 0, a seed, or embeddings."""
    choices: int = 1
    """How many answers the request asks for; 0 if the server decides."""
    outside: dict[str, Any] = {}
    """Parts of the body that do not change the answer, by place, such as ``messages[0].content[1].cache_control``."""
    passes: SideEffect = ""
    """Why the request passes through unshared, unless the app insists."""


class AnswerSummary(Struct, frozen=True):
    """The assessment of an answer."""

    verdict: Verdict
    not_stored: NotStored = ""
    """Empty if the answer may be stored, which only a complete one may."""
    detail: str = ""
    """What is missing or wrong, as the end of a sentence that begins with "the answer is not stored because"."""
    usage: Usage | None = None

    @property
    def complete(self) -> bool:
        """The answer is known to be whole."""
        return self.verdict == "complete"

    @property
    def failure(self) -> FailureKind | None:
        """How the lease fails; None if it completes."""
        return _FAILURES.get(self.verdict)

    @property
    def answered(self) -> bool:
        """The backend did its part, though the lease may fail."""
        return self.verdict in {"complete", "request_error", "unproven"}


_FAILURES: Final[Mapping[Verdict, FailureKind]] = {
    "request_error": "fatal",
    "server_error": "transient",
    "unproven": "ignored",
    "unclassifiable": "ignored",
}


class AnswerReader(ABC):
    """Judges one answer from the decoded bytes of its body. Never raises; every split of the bytes gives the same summary."""

    classifiable: bool = True
    """Whether the answer may still turn out to be one of the API. Once False, it stays so."""

    has_output: bool = False
    """Whether the model's output has begun, so that its prompt is processed. Once True, it stays so.

    Whitespace, comments, pings, and events that only say that the request was received precede the output. Bytes that cannot be
    read count as output.
    """

    @property
    def terminal(self) -> bool:
        """The rest of a stream has no meaning: an app that stops reading has the whole answer."""
        return False

    @abstractmethod
    def feed(self, data: bytes) -> None:
        """Read bytes of the body, split anywhere."""

    @abstractmethod
    def finish(self) -> AnswerSummary:
        """Return the summary after the end of the body, or where the app stopped at a `terminal` event."""


class UnclassifiableAnswer(AnswerReader):
    """Reads an answer whose head says that it is none of the API's."""

    classifiable = False
    has_output = True

    def __init__(self, detail: str) -> None:
        self._detail = detail

    def feed(self, data: bytes) -> None:
        """Read nothing."""

    def finish(self) -> AnswerSummary:
        """Return why the answer is none of the API's."""
        return AnswerSummary("unclassifiable", "dialect", self._detail)


class VaryingText(Struct, frozen=True):
    """The text of a request that may differ in similar requests."""

    text: str
    place: str
    """Where it is in ``ApiRequest.body``, such as ``messages[-1].content``."""
    rest: Any
    """``ApiRequest.body`` with None instead of the text."""


class EmbeddingLayout(Struct, frozen=True):
    """How requests and answers of an embeddings API are divided by text."""

    vectors: str
    """The field of the answer that has the vectors."""
    used: frozenset[str]
    """Its fields with numbers to add up, in nested objects too."""
    inputs: str = "input"
    """The field of the request that has the texts."""
    member: str = ""
    """The field of each member of the vectors' list that has its vector; empty if the member is the vector."""
    token_lists: bool = False
    """A text may be given as a list of token ids."""
    objects: bool = False
    """Each text is given in an object of its own, with its settings; the field always has a list."""


class ApiFamily(ABC):
    """One API. An instance has no state."""

    name: ClassVar[str]
    """Part of the key, of reports and of ``endpoints=``: never changes."""

    paths: ClassVar[tuple[str, ...]]
    """Endings of its paths, from a slash or colon on. If several families claim a request, the longest ending reads it first."""

    layout: ClassVar[EmbeddingLayout | None] = None
    """How its requests are divided by text; None if they are not."""

    @cached_property
    def has_prompts(self) -> bool:
        """Whether backends may cache the prompts of this API (`prompt`)."""
        return type(self).prompt is not ApiFamily.prompt

    def ending(self, target: RequestTarget) -> str:
        """Return the longest of the family's endings that the path has; empty if it has none."""
        path, longest = target.path.rstrip("/"), ""
        for end in self.paths:
            if len(end) > len(longest) and path.endswith(end):
                longest = end

        return longest

    def claims(self, target: RequestTarget) -> bool:
        """Return whether a request may be one of this API, judged by its head."""
        return target.method == "POST" and bool(target.declared == self.name or self.ending(target))

    @abstractmethod
    def read(self, target: RequestTarget, body: bytes) -> ApiRequest | None:
        """Return what a request asks for; None if its host and shape are not those of this API."""

    @abstractmethod
    def reader(self, asked: ApiRequest, *, content_type: str, headers: Mapping[str, str] = NO_HEADERS) -> AnswerReader:
        """Return a reader for the answer of status 2xx. ``headers`` are those of the answer, with names in lower case."""

    def prompt(self, asked: ApiRequest, target: RequestTarget) -> Sequence[PromptPart]:  # noqa: ARG002 - for families that have one
        """Return the parts of the prompt, in the order in which the backend's own cache sees them.

        Empty if the backend caches no prompts of this API, or not this one.
        """
        return ()

    def question(self, asked: ApiRequest) -> VaryingText | None:  # noqa: ARG002 - for families that have one
        """Return the text that may differ in similar requests; None if there is none."""
        return None
