"""LangChain's ChatOpenAI."""

from langchain_openai import ChatOpenAI
from tasks import PROMPT, SCHEMA, TOOL, URL

from sidecard_client import share  # sidecard

llm = ChatOpenAI(model="m", base_url=f"{URL}/v1", api_key="k", temperature=0)
share(llm)  # sidecard


def _message(message):
    return message.model_dump(exclude={"id"})  # of this run


def plain():
    return _message(llm.invoke(PROMPT))


def streamed():
    for chunk in llm.stream(f"{PROMPT}."):
        yield _message(chunk)


def tools():
    return _message(llm.bind_tools([TOOL]).invoke(PROMPT))


def structured():
    schema = {"title": "Weather", "description": "The weather.", **SCHEMA}
    return llm.with_structured_output(schema, method="json_schema").invoke(PROMPT)


async def async_plain():
    return _message(await llm.ainvoke(f"{PROMPT}!"))


async def async_streamed():
    async for chunk in llm.astream(f"{PROMPT}?"):
        yield _message(chunk)
