"""Which request headers and cookies belong to the key of a call, and which to its context. Pure.

The key has every header that is not listed here: an unknown header may change the answer, and a wrong answer costs more than a
miss. A listed header belongs to one of three groups:

* credentials and cookies: `identity` makes the caller's identity from them,
* headers that describe the caller (`CALLER_HEADERS`): they change no answer, but a server may refuse a request because of them,
  so they are part of the call's context,
* headers of one attempt (`ATTEMPT_HEADERS`): transport, tracing, request ids. They are part of neither.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Final

Headers = Sequence[tuple[str, str]]
"""Names in lower case, and values, in the order of the request."""

CREDENTIAL_HEADERS: Final = frozenset(
    {
        "authorization", "proxy-authorization", "cookie",
        "x-api-key", "api-key", "apikey", "x-auth-token", "x-access-token",
        # Clouds: Google, Azure's API management and functions, session tokens of AWS, Cloudflare Access.
        "x-goog-api-key", "x-goog-iap-jwt-assertion", "ocp-apim-subscription-key", "x-functions-key",
        "x-amz-security-token",
        "cf-access-client-id", "cf-access-client-secret", "cf-access-token", "cf-access-jwt-assertion",
        # Gateways.
        "cf-aig-authorization", "helicone-auth", "x-litellm-api-key", "x-portkey-api-key",
    }
)  # fmt: skip
"""Headers that prove who the caller is. Never in a key as they are."""

ACCOUNT_HEADERS: Final = frozenset(
    {
        "openai-organization", "openai-project", "anthropic-organization", "anthropic-workspace-id",
        "x-goog-user-project", "x-hf-bill-to",
        "x-portkey-virtual-key", "x-portkey-config", "x-portkey-provider",
    }
)  # fmt: skip
"""Headers that select one of a caller's accounts, or what a gateway does for it. Part of the key and of the backend's name."""

CALLER_HEADERS: Final = frozenset(
    {
        "accept", "content-type", "user-agent", "x-amz-user-agent", "x-client-name", "x-goog-api-client", "x-ms-useragent",
        "x-server-timeout",
        "helicone-user-id", "http-referer", "x-title", "x-openrouter-title", "x-openrouter-categories",
    }
)  # fmt: skip

CALLER_PREFIXES: Final = ("x-stainless-", "x-fern-", "helicone-property-", "helicone-session-")
"""``x-stainless-`` and ``x-fern-`` are sent by generated SDKs, such as OpenAI's and Cohere's: language, platform, timeouts."""

_TRANSPORT_HEADERS: Final = frozenset(
    {
        "accept-encoding", "cache-control", "connection", "content-length", "date", "expect", "host", "keep-alive", "pragma",
        "te", "trailer", "transfer-encoding", "upgrade",
        # Signatures of AWS cover them; they change with every request.
        "x-amz-content-sha256", "x-amz-date",
    }
)  # fmt: skip

_REQUEST_IDS: Final = frozenset(
    {
        "idempotency-key", "x-idempotency-key", "request-id", "x-request-id", "x-client-request-id", "correlation-id",
        "x-correlation-id", "x-transaction-id", "x-trace-id", "x-span-id", "x-parent-span-id", "trace-id", "span-id",
        "amz-sdk-invocation-id", "amz-sdk-request", "x-ms-client-request-id", "x-ms-request-id",
        "x-ms-correlation-request-id", "helicone-request-id", "x-portkey-trace-id", "x-portkey-span-id",
        "x-portkey-span-name", "x-portkey-parent-span-id", "x-stainless-retry-count", "x-litellm-trace-id", "x-tt-logid",
        "x-goog-request-id", "x-request-start", "x-queue-start", "x-litellm-call-id", "x-amzn-requestid", "x-vercel-id", "cf-ray",
    }
)  # fmt: skip

_TRACING_HEADERS: Final = frozenset(
    {
        # W3C, OpenTelemetry, gRPC
        "baggage", "traceparent", "tracestate", "traceresponse", "grpc-trace-bin",
        # Zipkin, Jaeger, OpenTracing, LightStep
        "b3", "jaeger-baggage", "jaeger-debug-id", "uber-trace-id", "x-ot-span-context",
        # Clouds: AWS X-Ray, Google, Azure Application Insights, Alibaba
        "x-amzn-trace-id", "x-cloud-trace-context", "correlation-context", "request-context", "x-ms-request-root-id",
        # Vendors: AppDynamics, Datadog, Dynatrace, Elastic, Epsagon, Honeycomb, New Relic, Sentry, SkyWalking, SolarWinds
        "adrum", "singularityheader", "x-dynatrace", "x-dtpc", "x-dtreferer", "epsagon-trace-id",
        "x-honeycomb-trace", "newrelic", "sentry-trace", "sw6", "sw8", "sw8-correlation", "sw8-x", "x-trace",
        "x-trace-options", "x-trace-options-signature", "x-scout-trace", "x-thundra-trace-id", "x-lumigo-trace",
        # Of calls to models: LangSmith, Braintrust, Opik
        "langsmith-trace", "x-bt-parent", "opik_trace_id", "opik_parent_span_id",
    }
)  # fmt: skip

ATTEMPT_HEADERS: Final = _TRANSPORT_HEADERS | _REQUEST_IDS | _TRACING_HEADERS

ATTEMPT_PREFIXES: Final = (
    "x-sidecard-",
    "x-b3-", "uberctx-", "ot-tracer-", "ot-baggage-", "l5d-ctx-", "x-envoy-",
    "adrum_", "elastic-apm-", "pinpoint-", "x-appdynamics-", "x-datadog-", "x-dynatrace-", "x-instana-", "x-lightstep-",
    "x-newrelic-", "x-ruxit-", "x-tracing-",
    "x-sfx-", "x-splunk-", "x-stackify-", "x-kamon-", "eagleeye-", "x-eagleeye-", "x-ebay-trace-", "x-signalfx-",
)  # fmt: skip

_ATTEMPT_SUFFIXES: Final = (
    "traceparent", "tracestate", "trace-id", "trace_id", "traceid", "span-id", "span_id", "spanid", "-request-id",
    "-correlation-id",
)  # fmt: skip
"""Ends of names that vendors give to the ids of one request."""

_USUAL_FORMATS: Final = frozenset({"", "*/*", "application/json", "text/event-stream", "application/x-ndjson"})
"""Values of ``accept`` that let the body decide the form of the answer."""

INFRASTRUCTURE_COOKIES: Final = frozenset(
    {
        # Cloudflare
        "__cf_bm", "_cfuvid", "__cfruid", "__cflb", "__cfseq", "__cfwaitingroup", "cf_clearance", "cf_ob_info", "cf_use_ob",
        # AWS, Google, Azure, Oracle, Alibaba, Tencent, Huawei, DigitalOcean, Heroku, Hetzner
        "awsalb", "awsalbcors", "awsalbtg", "awsalbtgcors", "awselb", "awselbcors", "aws-waf-token",
        "gclb", "gcilb", "gaesa",
        "arraffinity", "arraffinitysamesite", "applicationgatewayaffinity", "applicationgatewayaffinitycors", "aslbsa",
        "aslbsacors", "tipmix",
        "x-oracle-bmc-lbs-route", "x-oracle-oci-lbs-route", "acw_tc", "aliyungf_tc", "tgw_l7_route", "hwwafsesid",
        "hwwafsestime", "do-lb", "heroku-session-affinity", "hclbsticky",
        # Load balancers: HAProxy, Alibaba's, nginx, Apache, FortiWeb
        "serverid", "servercorsid", "ingresscookie", "routeid", "balanceid", "cookiesession1", "fortiwafsid",
        # Defenses against bots: Akamai, DataDome, Imperva, PerimeterX, Reblaze
        "ak_bmsc", "_abck", "aka_a2", "datadome", "reese84", "_px", "_px2", "_px3", "_pxde", "_pxhd", "_pxvid", "pxcts",
        "rbzid", "rbzsessionid",
        # Monitoring of browsers: Dynatrace
        "dtcookie", "dtlatc", "dtpc", "dtsa", "rxvisitor", "rxvt",
    }
)  # fmt: skip

INFRASTRUCTURE_COOKIE_PREFIXES: Final = (
    "cf_chl_",
    "awsalbtg",
    "bigipserver", "f5avr", "f5_cspm",
    "incap_", "visid_incap_", "nlbi_", "___utmv",
    "bm_", "akavpau_", "akacd_", "akaalb_",
    "_fs_ch_", "_fs_cd_",
    "sucuri_cloudproxy_", "sucuricp_", "kp_uidz", "__uzm", "rdwr", "bni_", "bnes_", "bnis_", "acw_sc_", "__ddg", "__jsl",
    "citrix_ns_id", "adrum",
)  # fmt: skip

_INFRASTRUCTURE_COOKIE_PATTERNS: Final = re.compile(
    r"""
    ts(?=[0-9a-f]*[0-9])[0-9a-f]{6,}(_[0-9]+)?   # F5's application firewall: TS01a2b3c4, TS01a2b3c4_28
    | _[0-9a-f]{5}                     # Traefik
    | [0-9a-f]{32}                     # OpenShift's router
    | nsc_(?!aaac|tm|tass|esns|cert|dlge|user|name|vpn|pers).+   # NetScaler, without its logins
    """,
    re.VERBOSE,
)
"""Names of cookies, in lower case, that are made of a machine's name or of a random part."""


def key_headers(headers: Headers, host: str | None = None) -> list[str]:
    """Return the headers that belong to the key, as ``name: value``, sorted.

    ``host`` is the URL's: a ``Host`` header with another one selects another upstream at the same address.
    """
    return sorted(
        f"{name}: {value}"
        for name, value in headers
        if _is_in_key(name, value) or (name == "host" and host is not None and value.lower() != host)
    )


def context_headers(headers: Headers) -> list[str]:
    """Return the headers that are not in the key and may still cause a refusal, sorted."""
    return sorted(
        f"{name}: {_without_boundary(value) if name == 'content-type' else value}"
        for name, value in headers
        if _describes_caller(name)
    )


def account_headers(headers: Headers) -> list[str]:
    """Return the headers that select an account, sorted."""
    return sorted(f"{name}: {value}" for name, value in headers if name in ACCOUNT_HEADERS)


def own_cookies(header: str) -> str:
    """Return a ``Cookie`` header without the cookies that proxies and load balancers set; the others are sorted."""
    cookies = (cookie.strip() for cookie in header.split(";"))
    return "; ".join(
        sorted(cookie for cookie in cookies if cookie and not is_of_infrastructure(cookie.partition("=")[0]))
    )


def is_of_infrastructure(name: str) -> bool:
    """Return whether a proxy, a load balancer or a defense against bots sets a cookie of this name."""
    name = name.strip().lower().removeprefix("__secure-").removeprefix("__host-")
    return (
        name in INFRASTRUCTURE_COOKIES
        or name.startswith(INFRASTRUCTURE_COOKIE_PREFIXES)
        or _INFRASTRUCTURE_COOKIE_PATTERNS.fullmatch(name) is not None
    )


def lower_names(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return headers with their names in lower case."""
    return [(name.lower(), value) for name, value in headers]


def _is_in_key(name: str, value: str) -> bool:
    if name == "accept":
        formats = {part.partition(";")[0].strip().lower() for part in value.split(",")}
        return not formats <= _USUAL_FORMATS

    return not (name in CREDENTIAL_HEADERS or _is_of_attempt(name) or _describes_caller(name))


def _is_of_attempt(name: str) -> bool:
    return name in ATTEMPT_HEADERS or name.startswith(ATTEMPT_PREFIXES) or name.endswith(_ATTEMPT_SUFFIXES)


def _describes_caller(name: str) -> bool:
    return (name in CALLER_HEADERS or name.startswith(CALLER_PREFIXES)) and name not in ATTEMPT_HEADERS


def _without_boundary(content_type: str) -> str:
    """Return a content type without the boundary of a form, which is random."""
    return content_type.partition("boundary=")[0]
