"""DSPy, whose calls LiteLLM makes if its engine is chosen; versions before 3.4 have no other."""

import inspect

import dspy
from tasks import PROMPT, URL

from sidecard_client import share  # sidecard

# In an app of its own, ``engine="litellm"`` is one more changed line.
ENGINE = {"engine": "litellm"} if "engine" in inspect.signature(dspy.LM.__init__).parameters else {}
lm = dspy.LM("openai/m", api_base=f"{URL}/v1", api_key="k", cache=False, max_tokens=400, temperature=0, **ENGINE)
share(lm)  # sidecard
dspy.configure(lm=lm)


def plain():
    return lm(PROMPT)


async def async_plain():
    return await lm.acall(f"{PROMPT}!")
