"""smolagents' model of OpenAI's kind."""

from smolagents import OpenAIServerModel
from tasks import PROMPT, URL

from sidecard_client import share  # sidecard

model = OpenAIServerModel("m", api_base=f"{URL}/v1", api_key="k")
share(model)  # sidecard
MESSAGES = [{"role": "user", "content": [{"type": "text", "text": PROMPT}]}]


def plain():
    message = model(MESSAGES)
    return [message.role, message.content, message.raw]


def streamed():
    for delta in model.generate_stream(MESSAGES):
        yield [delta.content, repr(getattr(delta, "token_usage", None))]
