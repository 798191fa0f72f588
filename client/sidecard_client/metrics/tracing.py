"""Spans of calls, for apps that trace with OpenTelemetry; imported where ``opentelemetry.trace`` is already, and nowhere else.

One CLIENT span a call, by the GenAI semantic conventions (``gen_ai.*``, as of their version 1.38) and with what only the
sidecar knows (``sidecard.*``):

=================================  ===================================================================================
``gen_ai.operation.name``          ``embeddings`` where the function's name has "embed" in it, else ``chat``
``gen_ai.provider.name``           the backend
``gen_ai.request.model``           ``model=``, where it is said
``gen_ai.response.model``          what ``usage=`` said, of a call that was made, as are the two that follow:
``gen_ai.usage.input_tokens``      an answer that was handed on has used no tokens
``gen_ai.usage.output_tokens``
``error.type``                     the exception's class, where the call raised one
``sidecard.source``                ``upstream``, ``cache``, ``stale``, ``shared``, ``fallback``
``sidecard.task``
``sidecard.key``                   the first characters, as the daemon's log has them
``sidecard.backend``
``sidecard.age_seconds``
``sidecard.saved_dollars``
``sidecard.waited_seconds``
``sidecard.attempts``
``sidecard.similarity``              of an answer to a similar request
=================================  ===================================================================================

The span is current while the function runs, so that what an SDK traces becomes its child. A caller who is served somebody
else's call links to that one's span. No prompt, no answer and no exception's text is ever in a span.

Whatever goes wrong with the tracing library, the call goes on without it.
"""

import contextlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from sidecard_client import __version__
from sidecard_client.protocol.wire import Usage

SHOWN_KEY_CHARACTERS: Final = 12

_PARENT_PARTS: Final = 4
"""Of a W3C ``traceparent``: version, trace, span, flags."""


class Span:
    """The span of one call. No method raises."""

    def __init__(self, trace: Any, span: Any) -> None:
        self._trace = trace
        self._span = span

    @property
    def parent(self) -> str:
        """What others need to point at it, as W3C's ``traceparent``; empty where it points nowhere."""
        with contextlib.suppress(Exception):
            context = self._span.get_span_context()
            if context.is_valid:
                return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

        return ""

    def link(self, parent: str) -> None:
        """Point at the span whose answer this call was served."""
        parts = parent.split("-")
        with contextlib.suppress(Exception):
            if len(parts) == _PARENT_PARTS:
                _, trace_id, span_id, flags = (int(part, 16) for part in parts)
                context = self._trace.SpanContext(trace_id, span_id, True, self._trace.TraceFlags(flags))  # noqa: FBT003
                if context.is_valid:
                    self._span.add_link(context)

    def used(self, usage: Usage | None) -> None:
        """Tell what the call used, as far as somebody said so."""
        if usage is not None:
            self._tell(
                {
                    "gen_ai.response.model": usage.model,
                    "gen_ai.usage.input_tokens": usage.prompt_tokens,
                    "gen_ai.usage.output_tokens": usage.completion_tokens,
                }
            )

    def came(self, outcome: Any) -> None:
        """Tell where the value came from."""
        self._tell(
            {
                "gen_ai.provider.name": outcome.backend,
                "sidecard.source": outcome.source,
                "sidecard.backend": outcome.backend,
                "sidecard.age_seconds": outcome.age_seconds,
                "sidecard.saved_dollars": outcome.saved_dollars,
                "sidecard.waited_seconds": outcome.waited_seconds,
                "sidecard.attempts": outcome.attempts,
            }
        )
        if outcome.similarity is not None:
            self._tell({"sidecard.similarity": outcome.similarity})

    def failed(self, error: BaseException) -> None:
        """Tell that the call raised."""
        name = type(error).__qualname__
        with contextlib.suppress(Exception):
            self._span.set_attribute("error.type", name)
            self._span.set_status(self._trace.Status(self._trace.StatusCode.ERROR, name))

    def end(self) -> None:
        """Let it be exported."""
        with contextlib.suppress(Exception):
            self._span.end()

    def _tell(self, attributes: dict[str, Any]) -> None:
        with contextlib.suppress(Exception):
            self._span.set_attributes({name: value for name, value in attributes.items() if value not in (None, "")})


@contextmanager
def traced(call: Any) -> Iterator[Span | None]:
    """Trace ``call`` (`calls.Call`) while the body makes it; yield its span, None where there is none to be had."""
    trace: Any = sys.modules.get("opentelemetry.trace")
    context: Any = sys.modules.get("opentelemetry.context")
    started = None
    with contextlib.suppress(Exception):
        started = _started(trace, call)

    if started is None:
        yield None
        return

    span, token = Span(trace, started), None
    with contextlib.suppress(Exception):
        token = context.attach(trace.set_span_in_context(started))

    call.span, call.trace = span, span.parent
    try:
        yield span
    except BaseException as error:
        span.failed(error)
        raise
    finally:
        if token is not None:
            with contextlib.suppress(Exception):
                context.detach(token)

        span.end()


def _started(trace: Any, call: Any) -> Any:
    name = getattr(call.functions[0], "__qualname__", "")
    operation = "embeddings" if "embed" in name.lower() else "chat"
    options = call.options
    attributes = {"gen_ai.operation.name": operation, "sidecard.task": options.task}
    if options.model:
        attributes["gen_ai.request.model"] = options.model

    if call.key is not None:
        attributes["sidecard.key"] = call.key[:SHOWN_KEY_CHARACTERS]

    if len(call.backends) == 1:
        # Known before anything can fail; of several it is told once one has answered.
        attributes["gen_ai.provider.name"] = attributes["sidecard.backend"] = call.backends[0]

    return trace.get_tracer("sidecard_client", __version__).start_span(
        f"{operation} {options.model}" if options.model else operation,
        kind=trace.SpanKind.CLIENT,
        attributes=attributes,
    )
