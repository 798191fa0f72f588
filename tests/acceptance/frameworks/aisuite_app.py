"""aisuite, with OpenAI's provider."""

import aisuite
from tasks import MESSAGES, TOOL, URL

from sidecard_client import share  # sidecard

client = aisuite.Client({"openai": {"base_url": f"{URL}/v1", "api_key": "k"}})
share(client)  # sidecard


def plain():
    return client.chat.completions.create(model="openai:m", messages=MESSAGES)


def tools():
    return client.chat.completions.create(model="openai:m", messages=MESSAGES, tools=[TOOL])
