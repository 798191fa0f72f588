"""Headers and cookies: which belong to the key, which to the context, and which to neither."""

import pytest

from sidecard_client.http.headers import account_headers, context_headers, key_headers, own_cookies


@pytest.mark.parametrize(
    "header",
    [
        "traceparent", "tracestate", "baggage", "b3", "x-b3-traceid", "uber-trace-id", "uberctx-a", "x-datadog-trace-id",
        "elastic-apm-traceparent", "newrelic", "x-newrelic-id", "sentry-trace", "x-amzn-trace-id", "x-cloud-trace-context",
        "x-instana-t", "sw8", "sw8-correlation", "singularityheader", "x-dynatrace", "pinpoint-traceid", "request-context",
        "x-honeycomb-trace", "ot-tracer-traceid", "eagleeye-traceid", "grpc-trace-bin", "langsmith-trace",
        "idempotency-key", "x-request-id", "x-ms-client-request-id", "x-stainless-retry-count", "amz-sdk-invocation-id",
        "x-amz-date", "accept-encoding", "content-length", "x-sidecard-cache", "x-litellm-call-id", "cf-ray",
        "x-langfuse-trace-id", "x-elastic-apm-traceparent", "x-vendor-parent-span-id", "apm-traceid", "x-acme-request-id",
    ],
)  # fmt: skip
def test_headers_of_one_attempt_belong_to_neither_key_nor_context(header: str) -> None:
    """Tracing, request ids and transport differ between equal requests."""
    assert key_headers([(header, "1")]) == context_headers([(header, "1")]) == []


@pytest.mark.parametrize("header", ["user-agent", "x-stainless-lang", "helicone-property-app", "x-fern-sdk-version"])
def test_headers_that_describe_the_caller_belong_to_the_context(header: str) -> None:
    """They change no answer, but a server may refuse a request because of them."""
    assert key_headers([(header, "1")]) == []
    assert context_headers([(header, "1")]) == [f"{header}: 1"]


@pytest.mark.parametrize(
    "header",
    ["openai-organization", "openai-project", "anthropic-version", "anthropic-beta", "x-portkey-virtual-key", "x-unknown",
     "anthropic-workspace-id", "x-hf-bill-to", "x-forwarded-for", "x-trace-mode", "x-user-id", "helicone-cache-enabled", "x-amzn-bedrock-guardrailidentifier"],
)  # fmt: skip
def test_every_other_header_belongs_to_the_key(header: str) -> None:
    """A header that is not listed may change the answer."""
    assert key_headers([(header, "1")]) == [f"{header}: 1"]


@pytest.mark.parametrize(
    "header", ["authorization", "cookie", "x-goog-api-key", "helicone-auth", "cf-aig-authorization"]
)
def test_credentials_are_in_neither_as_they_are(header: str) -> None:
    """They make the identity."""
    assert key_headers([(header, "secret")]) == context_headers([(header, "secret")]) == []


@pytest.mark.parametrize(
    ("accept", "counts"),
    [("*/*", False), ("application/json", False), ("application/json; q=0.9, text/event-stream", False), ("audio/wav", True)],
)  # fmt: skip
def test_an_unusual_accept_belongs_to_the_key(accept: str, *, counts: bool) -> None:
    """The usual values leave the form of the answer to the body."""
    assert bool(key_headers([("accept", accept)])) is counts


def test_the_boundary_of_a_form_is_not_part_of_the_context() -> None:
    """It is random."""
    one, two = (context_headers([("content-type", f"multipart/form-data; boundary={end}")]) for end in ("a", "b"))
    assert one == two != context_headers([("content-type", "application/json")])


def test_headers_that_select_an_account_are_known() -> None:
    """Organization and project, and what a gateway does for the caller."""
    headers = [
        ("openai-project", "p"),
        ("user-agent", "x"),
        ("openai-organization", "o"),
        ("anthropic-workspace-id", "w"),
    ]
    assert account_headers(headers) == ["anthropic-workspace-id: w", "openai-organization: o", "openai-project: p"]


@pytest.mark.parametrize(
    "cookie",
    [
        "__cf_bm", "_cfuvid", "cf_clearance", "__cflb", "AWSALB", "AWSALBCORS", "AWSALBTGCORS", "AWSELB", "GCLB",
        "ARRAffinity", "ARRAffinitySameSite", "ApplicationGatewayAffinity", "BIGipServerpool_api", "BIGipServer~part~pool",
        "TS01a2b3c4", "TS0123abcd_28", "incap_ses_123_456", "visid_incap_456", "nlbi_456", "ak_bmsc", "bm_sv", "bm_sz",
        "_abck", "NSC_mc_wt", "SERVERID", "INGRESSCOOKIE", "_1d52e", "1234567890abcdef1234567890abcdef", "datadome", "_pxhd",
        "__Secure-__cf_bm", "dtCookie",
    ],
)  # fmt: skip
def test_cookies_of_proxies_and_load_balancers_are_nobodys(cookie: str) -> None:
    """They name a machine or a connection."""
    assert own_cookies(f"{cookie}=1") == ""
    assert own_cookies(f"session=s; {cookie}=1; a=b") == "a=b; session=s"


@pytest.mark.parametrize(
    "cookie",
    ["session", "JSESSIONID", "PHPSESSID", "CF_Authorization", "AWSELBAuthSessionCookie-0", "NSC_AAAC", "NSC_TMAS",
     "MRHSession", "tsession", "TSession", "__Host-session", "user_id", "_abcd", "bmw"],
)  # fmt: skip
def test_other_cookies_are_the_callers(cookie: str) -> None:
    """Sessions and logins identify the caller, also those that a proxy keeps."""
    assert own_cookies(f"{cookie}=1") == f"{cookie}=1"
