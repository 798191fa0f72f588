"""What all apps ask."""

import os

URL = os.environ["UPSTREAM"]
PROMPT = "Say hi"
MESSAGES = [{"role": "user", "content": PROMPT}]

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "degrees": {"type": "integer"}},
    "required": ["city", "degrees"],
    "additionalProperties": False,
}
FUNCTION = {"name": "weather", "description": "Note the weather of a city.", "parameters": SCHEMA}
TOOL = {"type": "function", "function": FUNCTION}
FORMAT = {"type": "json_schema", "json_schema": {"name": "Weather", "schema": SCHEMA, "strict": True}}
