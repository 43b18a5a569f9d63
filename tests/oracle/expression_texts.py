"""Small templates for the expression language and the statements of Jinja: lists written by hand (expression_lists.py), and
expressions drawn at random."""

import random
import re

import expression_lists

VARIABLES = {
    "n": 7, "m": -3, "z": 0, "x": 2.5, "big": 123456789012, "t": True, "f": False, "nil": None, "s": "Hello, World", "e": "",
    "u": "naïve 日本語 ß", "lines": "one\ntwo\n\n  three\n", "pad": "  \t spaced \n", "l": [3, 1, 2], "words": ["pear", "Apple", "fig", "apple"],
    "d": {"a": 1, "b": {"c": [1, 2, {"k": "v"}]}, "items": 5, "größe": "ü"},
    "people": [{"name": "Ann", "age": 30, "tags": ["x", "y"]}, {"name": "bob", "age": 25, "tags": []}, {"name": "Cid", "age": 30}],
    "nested": [[1, 2], [], ["a", ["b"]]],
}
NUMBERS = ["n", "m", "z", "x", "big", "t", "f", "1", "0", "-2", "3.0", "0.1", "1e3", "17", "2"]
STRINGS = ["s", "e", "u", "pad", "lines", "'abc'", '"it\'s"', "'a,b,,c'", "'x' ~ n", "s[1:4]", "u[-1]", "s|lower", "''"]
# Without constants: Jinja computes those when it compiles, and then a slice of a number is undefined, not an error.
LISTS = ["l", "words", "[n, 'a', none]", "(n, 2)", "people|map(attribute='name')|list", "range(5)|list", "s|list", "d.b.c", "nested", "[]"]
ANY = ["d", "d.missing", "missing", "nil", "people[0]", "nested[2]", "[[n], {'k': x}]", "d['größe']", "people[2].tags"]
STRING_METHODS = [".upper()", ".strip()", ".title()", ".split(',')", ".split()", ".replace('l', 'LL')", ".startswith('He')", ".endswith(('x', 'ld'))",
                  ".find('o')", ".rfind('o')", ".count('l')", ".lstrip('H ')", ".rstrip()", ".capitalize()", ".zfill(8)", ".center(20, '*')", ".ljust(15)",
                  ".rjust(15)", ".splitlines()", ".partition(', ')", ".rpartition('o')", ".removeprefix('He')", ".isdigit()", ".rsplit(' ', 1)", ".lower()",
                  ".islower()", ".isspace()", ".swapcase()", ".join(['p', 'q'])", "[::-1]", "[2:]", "[-3:]", "[0]", "[:5]", "[1:9:2]", "[99]", ".removesuffix('d')"]
ASCII_ONLY = {".title()", ".swapcase()", ".isdigit()"}
STRING_FILTERS = ["upper", "lower", "title", "capitalize", "trim", "trim('H')", "replace('o', '0')", "replace('o', '0', 1)", "length", "list", "reverse",
                  "indent", "indent(2, true)", "indent('> ', blank=true)", "truncate(9)", "truncate(5, true, '..', 0)", "center(30)", "string", "default('none')",
                  "first", "last", "int", "float", "tojson", "join('-')", "count", "select('in', 'lo')|join", "unique|join", "map('upper')|join('.')", "sort|join", "max", "min"]
NUMBER_FILTERS = ["abs", "int", "float", "round", "round(1)", "round(1, 'floor')", "round(0, 'ceil')", "string", "tojson", "default(9)", "default(9, true)"]
LIST_FILTERS = ["length", "first", "last", "list", "reverse|list", "join(', ')", "join", "tojson", "tojson(indent=2)", "string", "batch(2)|list", "batch(2, 'f')|list",
                "slice(2)|list", "slice(2, 'f')|list", "select|list", "reject('none')|list", "map('string')|list", "select('string')|list", "select('number')|list", "unique|list",
                "tojson(separators=(',', ':'))", "count"]
TESTS = ["defined", "undefined", "none", "string", "number", "integer", "float", "boolean", "mapping", "sequence", "iterable", "true", "false", "callable"]


class Drawer:
    def __init__(self, rng):
        self.rng = rng

    def number(self, depth):
        kind = self.rng.randrange(8) if depth else 0
        if kind < 3:
            return self.rng.choice(NUMBERS)
        if kind < 6:
            return f"({self.number(depth - 1)} {self.rng.choice(['+', '-', '*', '/', '//', '%', '+', '-'])} {self.number(depth - 1)})"
        if kind == 6:
            return f"({self.number(depth - 1)}|{self.rng.choice(NUMBER_FILTERS)})"
        return f"({self.any(depth - 1)})|length"

    def string(self, depth):
        kind = self.rng.randrange(8) if depth else 0
        if kind < 2:
            return self.rng.choice(STRINGS)
        inner = self.string(depth - 1)
        if kind < 4:
            return f"({inner}){self.rng.choice(STRING_METHODS)}"
        if kind < 6:
            return f"({inner})|{self.rng.choice(STRING_FILTERS)}"
        if kind == 6:
            return f"({inner} ~ {self.any(depth - 1)})"
        return f"({inner} * {self.rng.randrange(-1, 4)})"

    def list(self, depth):
        kind = self.rng.randrange(6) if depth else 0
        if kind < 2:
            return self.rng.choice(LISTS)
        if kind < 4:
            return f"({self.list(depth - 1)})|{self.rng.choice(LIST_FILTERS)}"
        if kind == 4:
            return f"({self.list(depth - 1)})[{self.rng.choice(['1:', ':-1', '::-1', '0', '-1', '5', '1:3', '::2', '-2:'])}]"
        return f"({self.list(depth - 1)} + [{self.any(depth - 1)}])"

    def truth(self, depth):
        kind = self.rng.randrange(5)
        if kind == 0:
            return f"{self.any(depth - 1)} is {self.rng.choice(['', 'not '])}{self.rng.choice(TESTS)}"
        if kind == 1:
            return f"{self.any(depth - 1)} {self.rng.choice(['==', '!='])} {self.any(depth - 1)}"
        if kind == 2:
            return f"{self.number(depth - 1)} {self.rng.choice(['<', '<=', '>', '>='])} {self.number(depth - 1)} {self.rng.choice(['<', '!=', '>='])} {self.number(0)}"
        if kind == 3:
            return f"{self.string(0)} {self.rng.choice(['in', 'not in'])} {self.rng.choice([self.string(0), self.list(0), 'd', 'd.keys()'])}"
        return f"not ({self.any(depth - 1)})"

    def any(self, depth):
        if depth <= 0:
            return self.rng.choice([self.number, self.string, self.list, lambda _: self.rng.choice(ANY)])(0)
        kind = self.rng.randrange(9)
        if kind < 2:
            return self.number(depth)
        if kind < 4:
            return self.string(depth)
        if kind < 6:
            return self.list(depth)
        if kind == 6:
            return f"({self.truth(depth)})"
        if kind == 7:
            return f"({self.any(depth - 1)} if {self.truth(depth)} else {self.any(depth - 1)})"
        return f"({self.any(depth - 1)} {self.rng.choice(['and', 'or'])} {self.any(depth - 1)})"


def drawn(count, seed):
    """Expressions whose result Python can print without an address."""
    rng = random.Random(seed)
    drawer = Drawer(rng)
    out = []
    while len(out) < count:
        expression = drawer.any(rng.randrange(1, 5))
        template = "{{ " + expression + " }}"
        text = template if rng.randrange(2) else "{% set r = " + expression + " %}[{{ r }}|{{ r is defined }}]"
        if not_handled(text):
            continue
        out.append({"template": text, "variables": VARIABLES})
    return out


def not_handled(template):
    """What Octavo refuses while it runs, or what has an address in it: see core/text/jinja/template.h."""
    if any(method in template for method in ASCII_ONLY) and re.search(r"\bu\b|größe", template):
        return True
    import chat_inputs

    kind, text = chat_inputs.render(template, VARIABLES)
    return kind == "text" and (" object at 0x" in text or " of 0x" in text or "<built-in" in text or "range(" in text)


def groups(count, seed):
    for name, templates in expression_lists.LISTS.items():
        yield name, [{"template": template, "variables": VARIABLES} for template in templates]
    yield "drawn expressions", drawn(count, seed)
