"""OpenAI's images: made from a text, or from a text and other images in a form."""

from typing import Any, ClassVar, Final

from sidecard_client.http.answers.json_answer import JsonAnswer
from sidecard_client.http.answers.results import ResultsAnswer
from sidecard_client.http.family import NotStored
from sidecard_client.http.request_bodies.form import is_file
from sidecard_client.http.request_bodies.form_family import FormFamily, number_in
from sidecard_client.http.request_bodies.openai import HOSTS

_FIELDS: Final = frozenset(
    {
        "prompt", "image", "image[]", "images", "mask", "background", "input_fidelity", "moderation", "n",
        "output_compression", "output_format", "partial_images", "quality", "response_format", "safety_identifier", "size",
        "stream", "style", "user",
    }
)  # fmt: skip


class ImagesAnswer(ResultsAnswer):
    """Images, or events with previews and images. An image that is only a link expires, so it is shared and not stored."""

    def __init__(self, choices: int = 1, *, streamed: bool = False) -> None:
        super().__init__(choices, streamed=streamed)
        self._linked = False

    def read(self, event: dict[str, Any]) -> None:
        """Read an answer or an event."""
        images = event.get("data")
        kind = event.get("type")
        if not self.streamed and isinstance(images, list):
            self.find(map(self._is_image, images))
        elif isinstance(kind, str) and kind.startswith(("image_generation.", "image_edit.")):
            self.fits = True
            if kind.endswith(".completed") and self._is_image(event):
                self.reasons[len(self.reasons)] = "stop"

        self.use(event, event.get("usage"))

    def not_stored(self) -> NotStored:
        """Return whether the server keeps the image."""
        return "state" if self._linked else ""

    def _is_image(self, image: Any) -> bool:
        if not isinstance(image, dict):
            return False

        content, link = image.get("b64_json"), image.get("url")
        self._linked = self._linked or (not content and bool(link))
        return isinstance(content or link, str)


class OpenAIImages(FormFamily):
    """``POST /images/generations``, ``/images/edits`` and ``/images/variations``. The answer repeats ``safety_identifier``."""

    name: ClassVar[str] = "openai_images"
    paths: ClassVar[tuple[str, ...]] = ("/images/generations", "/images/edits", "/images/variations")
    hosts: ClassVar[tuple[str, ...]] = HOSTS
    outside: ClassVar[tuple[str, ...]] = ("user",)
    answer: ClassVar[type[JsonAnswer]] = ImagesAnswer
    own_fields: ClassVar[frozenset[str]] = _FIELDS

    def fits(self, fields: dict[str, Any]) -> bool:
        """Return whether it has a text, or an image to vary."""
        return isinstance(fields.get("prompt"), str) or ("prompt" not in fields and is_file(fields.get("image")))

    def choices(self, fields: dict[str, Any]) -> int:
        """Return the number of images."""
        return number_in(fields.get("n"))


FAMILY = OpenAIImages()
