"""Generate the documentation of the daemon's own metrics from an engine that has had a few calls."""

from msgspec import Raw, msgpack

from sidecard.core.engine import Engine
from sidecard.core.events import Peer, RequestReceived
from sidecard.core.settings import BackendSettings, BudgetSettings, EngineSettings
from sidecard_client.protocol import wire

GAUGES = ("buffered_bytes", "calls_pending", "hung_calls", "spool_bytes")
"""Gauges of optional parts of the daemon."""

_PEER = Peer(1, 1000, 1000, 1, operator=True)


def markdown() -> str:
    """Return a table of all metrics: name, type, labels, description."""
    rows = ["| metric | type | labels | description |", "|---|---|---|---|"]
    for family in sorted(families(), key=lambda family: family.name):
        name = f"{family.name}_total" if family.kind == "counter" else family.name
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        rows.append(
            f"| `{name}` | {family.kind} | {', '.join(f'`{label}`' for label in sorted(labels))} | {family.help} |"
        )

    return "\n".join(rows) + "\n"


def families() -> list[wire.Family]:
    """Return all families of the daemon's metrics, each with at least one sample."""
    budgets = {"day": BudgetSettings(dollars=1.0)}
    backends = {"local": BackendSettings(locality="local", prefix_affinity="provider", prefix_min_tokens=0)}
    settings = EngineSettings(store="own", max_series=1, budgets=budgets, backends=backends)
    engine = Engine(settings, boot_id="boot", version="1", now=0.0, shown_settings={}, shown_origins={})
    for name in GAUGES:
        engine.metrics.gauges[name] = lambda: 0.0

    value = Raw(msgpack.encode("answer"))
    # The server counts and times requests.
    engine.metrics.requests[wire.Begin, wire.Lease] += 1
    engine.metrics.handled[wire.Begin].observe(0.001)
    prefix = ("0" * 32,)
    (lease,) = _replies(engine, wire.Begin("refreshed", mode="refresh", backends=("local",), prefix=prefix, id=1))
    assert isinstance(lease, wire.Lease)
    _replies(engine, wire.Begin("held", mode="refresh", backends=("local",), prefix=prefix, id=4))
    usage = wire.Usage(model="model", prompt_tokens=1, cost_dollars=0.1)
    _replies(engine, wire.Complete(lease.lease, value, usage, store=False, id=2))
    for label in ("one", "two"):
        metric = wire.Measurement(name="app_metric", kind="counter", labels={"label": label})
        _replies(engine, wire.RecordMetrics(metrics=(metric,)))

    (metrics,) = _replies(engine, wire.GetMetrics(id=3))
    assert isinstance(metrics, wire.Metrics)
    return [family for family in metrics.families if family.name.startswith("sidecard_")]


def _replies(engine: Engine, request: wire.AnyRequest) -> list[wire.AnyReply]:
    effects = engine.handle(RequestReceived(_PEER, request), 1.0)
    return [effect.reply for effect in effects if hasattr(effect, "reply")]
