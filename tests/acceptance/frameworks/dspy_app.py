"""DSPy, whose calls LiteLLM makes."""

import dspy
import litellm
from tasks import PROMPT, URL

from sidecard_client import share  # sidecard

share(litellm)  # sidecard
lm = dspy.LM("openai/m", api_base=f"{URL}/v1", api_key="k", cache=False, max_tokens=400, temperature=0)
dspy.configure(lm=lm)


def plain():
    return lm(PROMPT)


async def async_plain():
    return await lm.acall(f"{PROMPT}!")
