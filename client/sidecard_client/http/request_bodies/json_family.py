"""Families whose requests are JSON objects. Pure."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, ClassVar

from sidecard_client.call.determinism import is_deterministic
from sidecard_client.http.answers.json_answer import JsonAnswer
from sidecard_client.http.answers.readers import StreamForm, is_json, json_reader
from sidecard_client.http.family import (
    NO_HEADERS,
    AnswerReader,
    ApiFamily,
    ApiRequest,
    RequestTarget,
    SideEffect,
    VaryingText,
)
from sidecard_client.http.request_bodies.json_fields import fields_of_json
from sidecard_client.http.request_bodies.outside import Places, divided_at, places
from sidecard_client.http.request_bodies.questions import last_text
from sidecard_client.http.request_bodies.shapes import deployment_in, is_below_an_item


class JsonFamily(ApiFamily):
    """A family described by tables. A request is its own if its host is known, or names a model; and if `fits` says so."""

    hosts: ClassVar[tuple[str, ...]] = ()
    """Hosts of this API. A request there needs no model. ``.example.com`` matches all hosts below it."""

    outside: ClassVar[tuple[str, ...]] = ()
    """Fields that neither change the answer nor come back in it, such as ``tools[].cache_control``."""

    answer: ClassVar[type[JsonAnswer]]
    """How its answers are assessed."""

    own_fields: ClassVar[frozenset[str]] = frozenset()
    """All of the API's fields, if a request that has no others needs no model on any host."""

    form: ClassVar[StreamForm] = "events"
    streams_by_default: ClassVar[bool] = False
    always_deterministic: ClassVar[bool] = False

    text_field: ClassVar[str] = ""
    """The field whose last text may differ in similar requests; empty if there is none."""

    @abstractmethod
    def fits(self, fields: dict[str, Any]) -> bool:
        """Return whether the API's own fields have their types."""

    def effect(self, fields: dict[str, Any]) -> SideEffect:  # noqa: ARG002 - for families that have any
        """Return what the request changes."""
        return ""

    def places_outside(self, fields: dict[str, Any], body: bytes) -> Places:  # noqa: ARG002 - for families that need it
        """Return the places of `outside` that a request may have. Few bodies have the name of a nested one."""
        return self._places if any(name in body for name in self._nested_names) else self._top_places

    def choices(self, fields: dict[str, Any]) -> int:  # noqa: ARG002 - for families that have several
        """Return how many answers the request asks for."""
        return 1

    def fields_of(self, target: RequestTarget, body: bytes) -> dict[str, Any] | None:  # noqa: ARG002 - for families with forms
        """Return the fields of the body; None if it has none."""
        return fields_of_json(body)

    def model_of(self, target: RequestTarget, fields: dict[str, Any]) -> str | None:
        """Return the model that a request names; None if it names none."""
        model = fields.get("model")
        return model if isinstance(model, str) else deployment_in(target.path) or None

    def claims(self, target: RequestTarget) -> bool:
        """As `ApiFamily.claims`. An ending below an item's id is another API's on any host."""
        if not self.takes(target.media_type):
            return False

        return super().claims(target) and (
            target.declared == self.name or not is_below_an_item(target.path, self.ending(target))
        )

    def takes(self, media_type: str) -> bool:
        """Return whether a request's body may be of this type."""
        return not media_type or is_json(media_type) or media_type == "text/plain"

    def read(self, target: RequestTarget, body: bytes) -> ApiRequest | None:
        """As `ApiFamily.read`."""
        fields = self.fields_of(target, body)
        if fields is None or not self.fits(fields):
            return None

        model = self.model_of(target, fields)
        if model is None and not self._needs_no_model(target, fields):
            return None

        kept, outside = divided_at(fields, self.places_outside(fields, body))
        return ApiRequest(
            model or "",
            kept,
            fields.get("stream", self.streams_by_default) is True,
            self.always_deterministic or is_deterministic(fields),
            self.choices(fields),
            outside,
            self.effect(fields),
        )

    def reader(
        self,
        asked: ApiRequest,
        *,
        content_type: str,
        headers: Mapping[str, str] = NO_HEADERS,  # noqa: ARG002 - not needed
    ) -> AnswerReader:
        """As `ApiFamily.reader`."""
        return json_reader(
            self.answer_maker(asked),
            content_type=content_type,
            form=self.form,
            stream=asked.stream,
            choices=asked.choices,
        )

    def answer_maker(self, asked: ApiRequest) -> Callable[..., JsonAnswer]:  # noqa: ARG002 - for families that need it
        """Return what makes the assessment of an answer to this request, from ``choices`` and ``streamed=``."""
        return self.answer

    def question(self, asked: ApiRequest) -> VaryingText | None:
        """As `ApiFamily.question`."""
        return last_text(asked.body, self.text_field) if self.text_field else None

    def _needs_no_model(self, target: RequestTarget, fields: dict[str, Any]) -> bool:
        only_own = bool(fields) and fields.keys() <= self.own_fields
        return only_own or target.declared == self.name or target.is_at(self.hosts)

    @cached_property
    def _places(self) -> Places:
        return places(self.outside)

    @cached_property
    def _top_places(self) -> Places:
        return places(path for path in self.outside if "." not in path)

    @cached_property
    def _nested_names(self) -> tuple[bytes, ...]:
        """Names of nested fields: a body without them is not searched."""
        return tuple({path.rpartition(".")[2].encode() for path in self.outside if "." in path})
