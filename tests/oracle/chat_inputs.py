"""What chat templates are given: conversations with tools, calls, results, reasoning, contents in parts; and how Jinja
renders them as `transformers` does."""

import datetime
import json
import os
import random

import jinja2
import transformers.utils.chat_template_utils as chat_template_utils

NOW_NS = 1_722_073_445_123_456_000  # 2024-07-27 09:44:05.123456 UTC
BOS, EOS = "<|begin_of_text|>", "<|end_of_text|>"
PIECES = ["Hello", "what is 2+2?", " ", "\n", "\t", "\r\n", "\x1c", "\x85", "\u3000", "\u2028", "<|im_end|>", "{{ x }}", "{% if %}",
          "naïve", "Straße", "ΣΊΣΥΦΟΣ", "日本語", "👩‍👩‍👧", "it's \"quoted\" \\n", "<b>&amp;</b>", "a" * 50, "", "\u200b", "\x00",
          "<think>\n", "\n</think>\n\n", "</think>", "<tool_response>", "</tool_response>"]
TYPES = ["string", "number", "integer", "boolean", "array", "object", ["string", "null"]]


class FrozenTime(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(1970, 1, 1) + datetime.timedelta(microseconds=NOW_NS // 1000)


chat_template_utils.datetime = FrozenTime


def text(rng, most=8):
    return "".join(rng.choice(PIECES) for _ in range(rng.randrange(most)))


def value(rng, depth=0):
    kind = rng.randrange(9 if depth < 2 else 7)
    if kind < 2:
        return text(rng, 4)
    if kind < 7:
        return [rng.randrange(-5, 1000), rng.choice([0.5, 1e20, -2.25, 3.0, 1e-7]), True, False, None][kind - 2]
    if kind == 7:
        return [value(rng, depth + 1) for _ in range(rng.randrange(3))]
    return {text(rng, 2) or "k": value(rng, depth + 1) for _ in range(rng.randrange(3))}


def schema(rng, depth=0):
    kind = rng.choice(TYPES[:4] if depth > 1 else TYPES)
    out = {"type": kind}
    if rng.randrange(2):
        out["description"] = text(rng, 3)
    if rng.randrange(4) == 0:
        out["enum"] = [text(rng, 2) for _ in range(2)]
    if kind == "array":
        out["items"] = schema(rng, depth + 1)
    if kind == "object":
        out["additionalProperties"] = schema(rng, depth + 1)
        out["properties"] = {f"p{i}": schema(rng, depth + 1) for i in range(rng.randrange(3))}
    return out


def tool(rng, number):
    properties = {f"{rng.choice(['city', 'Limit', 'when', 'größe'])}{i}": schema(rng) for i in range(rng.randrange(4))}
    function = {"name": f"{rng.choice(['get', 'Set', 'find'])}_{number}", "description": text(rng, 4),
                "parameters": {"type": "object", "properties": properties,
                               "required": [name for name in properties if rng.randrange(2)]}}
    if rng.randrange(3) == 0:
        function["return"] = {"type": "string"}
    if rng.randrange(3) == 0:
        function["strict"] = True
    return {"type": "function", "function": function}


def call(rng):
    arguments = {f"a{i}": value(rng) for i in range(rng.randrange(3))}
    return {"type": "function", "id": rng.choice(["abcdef123", "123456789", "short"]) if rng.randrange(5) == 0 else "abc123def",
            "function": {"name": f"get_{rng.randrange(3)}", "arguments": arguments}}


def parts(rng):
    return [{"type": "text", "text": text(rng, 4)} if rng.randrange(3) else {"type": "image"} for _ in range(rng.randrange(3))]


def turn(rng, number, rich):
    role = ("user", "assistant")[number % 2]
    if rng.randrange(12) == 0:
        role = rng.choice(["tool", "system", "ipython", "user", "developer"])
    out = {"role": role, "content": text(rng)}
    if not rich:
        return out
    if role == "assistant" and rng.randrange(3) == 0:
        out["tool_calls"] = [call(rng) for _ in range(rng.choice([1, 1, 1, 2]))]
        if rng.randrange(2):
            out["content"] = rng.choice([None, ""])
    if role == "assistant" and rng.randrange(5) == 0:
        out["reasoning_content"] = text(rng, 4)
    if role == "tool" and rng.randrange(2):
        out["tool_call_id"] = "abc123def"
        out["content"] = rng.choice([value(rng), {"content": value(rng)}, text(rng)])
    if role == "user" and rng.randrange(12) == 0:
        out["content"] = parts(rng)
    return out


def conversation(rng, rich):
    turns = []
    if rng.randrange(2):
        turns.append({"role": "system", "content": text(rng)})
    number = 0
    for _ in range(rng.randrange(0 if rng.randrange(40) == 0 else 1, 8)):
        made = turn(rng, number, rich)
        turns.append(made)
        number += 1
        if "tool_calls" in made:
            for _ in range(rng.randrange(3)):
                turns.append({"role": "tool", "tool_call_id": "abc123def", "name": "get_1", "content": rng.choice([text(rng), "7"])})
    out = {"messages": turns, "tools": None, "documents": None, "add_generation_prompt": rng.randrange(2) == 1,
           "bos_token": BOS, "eos_token": EOS}
    if rich and rng.randrange(2):
        out["tools"] = [tool(rng, i) for i in range(rng.randrange(1, 4))]
    if rich and rng.randrange(6) == 0:
        out["documents"] = [{"title": text(rng, 3), "text": text(rng)} for _ in range(rng.randrange(3))]
    if rich and rng.randrange(6) == 0:
        out.update(rng.choice([{"enable_thinking": False}, {"builtin_tools": ["get_1", "code_interpreter"]},
                               {"tools_in_user_message": False}, {"date_string": "1 May 1999"}, {"controls": {"length": "long"}}]))
    return out


def conversations(count, seed):
    rng = random.Random(seed)
    return [conversation(rng, number % 2 == 1) for number in range(count)]


def render(template, variables):
    """("text", rendered) or ("raise", message of raise_exception) or ("error", what Python says)."""
    rest = {name: member for name, member in variables.items() if name != "messages"}
    try:
        if "messages" not in variables:
            compiled = chat_template_utils._compile_jinja_template(template)
            return "text", compiled.render(**variables)
        rendered, _ = chat_template_utils.render_jinja_template([variables["messages"]], chat_template=template, **rest)
        return "text", rendered[0]
    except jinja2.exceptions.TemplateError as error:
        if type(error) is jinja2.exceptions.TemplateError:
            return "raise", str(error)
        return "error", f"{type(error).__name__}: {error}"
    except Exception as error:  # what Python itself raises inside a template
        return "error", f"{type(error).__name__}: {error}"


def jobs(template, cases):
    """Lines for text_tool render."""
    first = True
    for variables in cases:
        job = {"variables": variables, "now_ns": NOW_NS}
        if first:
            job["template"] = template
        first = False
        yield json.dumps(job)


os.environ["TZ"] = "UTC"
