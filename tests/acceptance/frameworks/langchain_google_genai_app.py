"""LangChain's ChatGoogleGenerativeAI."""

from langchain_google_genai import ChatGoogleGenerativeAI
from tasks import PROMPT, SCHEMA, TOOL, URL

from sidecard_client import share  # sidecard

llm = ChatGoogleGenerativeAI(model="m", base_url=URL, api_key="k", max_retries=0)
share(llm)  # sidecard


def _message(message):
    return message.model_dump(exclude={"id"})  # of this run


def plain():
    return _message(llm.invoke(PROMPT))


def streamed():
    for chunk in llm.stream(f"{PROMPT}."):
        yield _message(chunk)


def tools():
    message = llm.bind_tools([TOOL]).invoke(PROMPT)
    return [(call["name"], call["args"]) for call in message.tool_calls]  # whose ids are of this run


def structured():
    schema = {"title": "Weather", "description": "The weather.", **SCHEMA}
    return llm.with_structured_output(schema, method="json_schema").invoke(PROMPT)


async def async_plain():
    return _message(await llm.ainvoke(f"{PROMPT}!"))


async def async_streamed():
    async for chunk in llm.astream(f"{PROMPT}?"):
        yield _message(chunk)
