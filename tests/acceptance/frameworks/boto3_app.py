"""Amazon's SDK, with Bedrock's ``converse`` and ``invoke_model``."""

import json

import boto3
from tasks import PROMPT, SCHEMA, URL

from sidecard_client import share  # sidecard

llm = boto3.client(
    "bedrock-runtime",
    "eu-west-1",
    endpoint_url=URL,
    aws_access_key_id="AKIAIOSFODNN7EXAMPLE",
    aws_secret_access_key="secret",
)
share(llm)  # sidecard
MODEL = "anthropic.claude-3-haiku-20240307-v1:0"
MESSAGES = [{"role": "user", "content": [{"text": PROMPT}]}]


def plain():
    return llm.converse(modelId=MODEL, messages=MESSAGES)


def tools():
    tool = {"toolSpec": {"name": "weather", "inputSchema": {"json": SCHEMA}}}
    return llm.converse(modelId=MODEL, messages=MESSAGES, toolConfig={"tools": [tool]})


def invoke():
    body = {"anthropic_version": "bedrock-2023-05-31", "max_tokens": 9, "messages": MESSAGES}
    return llm.invoke_model(modelId=MODEL, body=json.dumps(body))["body"].read().decode()
