"""Chat templates of ChatML and Llama 3 in several spellings, put together from their parts, and conversations."""

import random

PROMPT_DEFAULT = ("{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}"
                  "{% endif %}")
SMOLLM2_SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
QWEN2_SYSTEM = "You are a helpful assistant."


def when(condition, then, otherwise=""):
    return "{% if " + condition + " %}" + then + ("{% else %}" + otherwise if otherwise else "") + "{% endif %}"


def show(literal):
    return "{{ '" + literal + "' }}"


def default_system(feed, system):
    return when("loop.first and messages[0]['role'] != 'system'", show(f"<|im_start|>system{feed}{system}<|im_end|>{feed}"))


def chatml(feed, system="", head=""):
    turn = "{{'<|im_start|>' + message['role'] + '" + feed + "' + message['content'] + '<|im_end|>' + '" + feed + "'}}"
    return (head + "{% for message in messages %}" + (default_system(feed, system) if system else "") + turn +
            "{% endfor %}" + when("add_generation_prompt", show(f"<|im_start|>assistant{feed}")))


def qwen15(feed):
    turn = "{{'<|im_start|>' + message['role'] + '" + feed + "' + message['content']}}"
    close = when("(loop.last and add_generation_prompt) or not loop.last", "{{ '<|im_end|>' + '" + feed + "'}}")
    return ("{% for message in messages %}" + default_system(feed, QWEN2_SYSTEM[:-1]) + turn + close + "{% endfor %}" +
            when("add_generation_prompt and messages[-1]['role'] != 'assistant'", show(f"<|im_start|>assistant{feed}")))


def llama3(feed, revision):
    turn = ("{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>" + feed * 2 +
            "'+ message['content'] | trim + '<|eot_id|>' %}")
    loop = ("{% set loop_messages = messages %}{% for message in loop_messages %}" + turn +
            when("loop.index0 == 0", "{% set content = bos_token + content %}") + "{{ content }}{% endfor %}")
    prompt = show(f"<|start_header_id|>assistant<|end_header_id|>{feed * 2}")
    if revision == "always":
        return loop + prompt
    if revision == "or eos":
        return PROMPT_DEFAULT + loop + when("add_generation_prompt", prompt, "{{ eos_token }}")
    return loop + when("add_generation_prompt", prompt)


def all_templates():
    """(name, text) of every template, each with line feeds and with \\n in its literals."""
    for feed in ("\n", "\\n"):
        yield "chatml", chatml(feed)
        yield "chatml", chatml(feed, head=PROMPT_DEFAULT)
        yield "smollm2", chatml(feed, SMOLLM2_SYSTEM)
        yield "qwen2", chatml(feed, QWEN2_SYSTEM)
        yield "qwen1.5", qwen15(feed)
        yield "llama3", llama3(feed, "final")
        yield "llama3", llama3(feed, "always")
        yield "llama3", llama3(feed, "or eos")


PIECES = ["Hello", "what is 2+2?", " ", "\n", "\t", "\r\n", "\x1c", "\x85", "\u3000", "\u2028", "<|im_end|>", "<|eot_id|>", "{{ x }}",
          "{% if %}", "naïve", "日本語", "👩‍👩‍👧", "it's \"quoted\" \\n", "<b>&amp;</b>", "a" * 50, "", "\u200b", "\x00"]


def content(rng):
    return "".join(rng.choice(PIECES) for _ in range(rng.randrange(0, 8)))


def conversations(count, seed):
    """Of 0 to 8 turns, with and without a system turn, some with odd roles or orders."""
    rng = random.Random(seed)
    out = []
    for number in range(count):
        turns = []
        if rng.randrange(2):
            turns.append({"role": "system", "content": content(rng)})
        for i in range(rng.randrange(0 if number < 5 else 1, 8)):
            odd = rng.randrange(10) == 0
            role = rng.choice(["tool", "system", "ipython", "user"]) if odd else ("user", "assistant")[i % 2]
            turns.append({"role": role, "content": content(rng)})
        out.append({"messages": turns, "add_generation_prompt": rng.randrange(2) == 1})
    return out
