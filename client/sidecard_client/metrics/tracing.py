"""Spans of calls, for apps that use OpenTelemetry. Imported only if the app has imported ``opentelemetry.trace``.

Each call is one CLIENT span, by the GenAI semantic conventions 1.38 (``gen_ai.*``) plus ``sidecard.*``; ``sidecard docs client``
lists the attributes. Only calls that were made have used tokens: a shared or stored answer has not.
The span is current while the function runs, so an SDK's own spans become its children. A caller that shares another call
links to that call's span. Spans contain no prompt, no answer and no exception text.
Failures of the tracing library never affect the call.
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
"""Number of parts of a W3C ``traceparent``: version, trace, span, flags."""


class Span:
    """The span of one call. No method raises."""

    def __init__(self, trace: Any, span: Any) -> None:
        self._trace = trace
        self._span = span

    @property
    def parent(self) -> str:
        """The span's W3C ``traceparent``, for links of other spans; empty if it is not valid."""
        with contextlib.suppress(Exception):
            context = self._span.get_span_context()
            if context.is_valid:
                return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

        return ""

    def link(self, parent: str) -> None:
        """Link to the span whose answer this call received."""
        parts = parent.split("-")
        with contextlib.suppress(Exception):
            if len(parts) == _PARENT_PARTS:
                _, trace_id, span_id, flags = (int(part, 16) for part in parts)
                context = self._trace.SpanContext(trace_id, span_id, True, self._trace.TraceFlags(flags))  # noqa: FBT003
                if context.is_valid:
                    self._span.add_link(context)

    def set_usage(self, usage: Usage | None) -> None:
        """Record what the call used, if that is known."""
        if usage is not None:
            self._set(
                {
                    "gen_ai.response.model": usage.model,
                    "gen_ai.usage.input_tokens": usage.prompt_tokens,
                    "gen_ai.usage.output_tokens": usage.completion_tokens,
                }
            )

    def set_outcome(self, outcome: Any) -> None:
        """Record where the value came from."""
        self._set(
            {
                "gen_ai.provider.name": outcome.backend,
                "sidecard.source": outcome.source,
                "sidecard.backend": outcome.backend,
                "sidecard.age_seconds": outcome.age_seconds,
                "sidecard.saved_dollars": outcome.saved_dollars,
                "sidecard.waited_seconds": outcome.waited_seconds,
                "sidecard.attempts": outcome.attempts,
                "sidecard.similarity": outcome.similarity,
            }
        )

    def set_inputs(self, count: int) -> None:
        """Record how many inputs a batch has."""
        self._set({"sidecard.inputs": count})

    def set_error(self, error: BaseException) -> None:
        """Record the exception that the call raised."""
        name = type(error).__qualname__
        with contextlib.suppress(Exception):
            self._span.set_attribute("error.type", name)
            self._span.set_status(self._trace.Status(self._trace.StatusCode.ERROR, name))

    def end(self) -> None:
        """Release the span for export."""
        with contextlib.suppress(Exception):
            self._span.end()

    def _set(self, attributes: dict[str, Any]) -> None:
        with contextlib.suppress(Exception):
            self._span.set_attributes({name: value for name, value in attributes.items() if value not in (None, "")})


@contextmanager
def traced(call: Any) -> Iterator[Span | None]:
    """Trace ``call`` (`call.Call`) while the body makes it; yield its span, or None if tracing fails."""
    trace: Any = sys.modules.get("opentelemetry.trace")
    context: Any = sys.modules.get("opentelemetry.context")
    started = None
    with contextlib.suppress(Exception):
        started = _start_span(trace, call)

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
        span.set_error(error)
        raise
    finally:
        if token is not None:
            with contextlib.suppress(Exception):
                context.detach(token)

        span.end()


def _start_span(trace: Any, call: Any) -> Any:
    name = getattr(call.functions[0], "__qualname__", "")
    operation = "embeddings" if "embed" in name.lower() else "chat"
    options = call.options
    attributes = {"gen_ai.operation.name": operation, "sidecard.task": options.task}
    if options.model:
        attributes["gen_ai.request.model"] = options.model

    if call.key is not None:
        attributes["sidecard.key"] = call.key[:SHOWN_KEY_CHARACTERS]

    if len(call.backends) == 1:
        # With one backend, a failed call's span names it too; with several, `set_outcome` does once one has answered.
        attributes["gen_ai.provider.name"] = attributes["sidecard.backend"] = call.backends[0]

    return trace.get_tracer("sidecard_client", __version__).start_span(
        f"{operation} {options.model}" if options.model else operation,
        kind=trace.SpanKind.CLIENT,
        attributes=attributes,
    )
