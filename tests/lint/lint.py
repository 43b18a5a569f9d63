#!/usr/bin/env python3
"""Checks the house rules that a compiler does not: floors, folder cycles, banned includes over the
transitive closure, sizes, names, header manuals, leftovers. usage: lint.py [ROOT]. Prints one line per finding
("file:line: what") and exits 1 if there is any. The table of floors is floors.txt beside this file."""

import os
import re
import subprocess
import sys

FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 70
KERNEL_FUNCTION_LINES_MAX = 150  # a straight kernel body may be longer
COLUMNS_MAX = 100
SOURCE = (".h", ".cc", ".cu")
TEXT = SOURCE + (".py", ".sh", ".md", ".proto", ".txt", ".cmake", ".json", ".yaml", ".yml", ".in")
SIZED = SOURCE + (".py", ".sh", ".proto")
NAMES = {"util", "utils", "helper", "helpers", "common", "misc", "manager"}
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')
# Spelled in pieces so that this file does not find itself.
LEFTOVERS = [
    (re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b"), "leftover note"),
    (re.compile(r"GTEST_" + r"SKIP|DIS" + r"ABLED_"), "a test that does not run"),
    (re.compile(r"(?<![\w.$}*-])/(wo" + r"rk|ho" + r"me|ro" + r"ot)/"), "path of one machine"),
    (re.compile(r"\bsha" + r"red/(design|reference|hooks)"), "path outside the repository"),
    (re.compile(r"py" + r"pi\.org|files\.python" + r"hosted|hugging" + r"face\.co|deb\.deb" + r"ian|docker\.i" + r"o"
                r"|quay\.i" + r"o|ghcr\.i" + r"o|--index" + r"-url"), "host of a registry"),
]


class Floors:
    """floors.txt, parsed."""

    def __init__(self, path):
        self.may, self.only, self.never = {}, [], []
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                line = line.split("#", 1)[0].strip()
                if not line:
                    continue
                head, _, rest = line.partition(":")
                words = head.split()
                if words[0] == "only":
                    self.only.append((words[1:], set(rest.split())))
                elif words[0] == "never":
                    self.never.append((set(words[1:]), rest.split()))
                elif len(words) == 1:
                    self.may[words[0]] = set(rest.split())
                else:
                    raise ValueError(f"floors.txt:{number}: cannot read {line!r}")
        for room, allowed in self.may.items():
            if "core/tensor" in allowed or room == "core/tensor":
                allowed.add("core/tensor/bare")
            for other in allowed - {"*"}:
                if other not in self.may:
                    raise ValueError(f"floors.txt: {room} names {other}, which has no line")

    def room_of(self, path):
        """The longest room that is a folder of `path`, or None (tests, generated code outside proto)."""
        if path.startswith("octavo/v1/"):
            return "proto"
        folder = os.path.dirname(path)
        while folder:
            if folder in self.may:
                return folder
            folder = os.path.dirname(folder)
        return None


def listed_files(root):
    """Files git tracks or would track; without git, every file outside build folders."""
    try:
        out = subprocess.run(["git", "-C", root, "ls-files", "-co", "--exclude-standard"], check=True,
                             capture_output=True, text=True).stdout
        return sorted(f for f in out.split("\n") if f and os.path.isfile(os.path.join(root, f)))
    except (OSError, subprocess.CalledProcessError):
        found = []
        for folder, folders, files in os.walk(root):
            folders[:] = [f for f in folders if f not in ("build", ".git", ".cache", "__pycache__")]
            found += [os.path.relpath(os.path.join(folder, f), root) for f in files]
        return sorted(found)


def read_lines(root, path):
    with open(os.path.join(root, path), encoding="utf-8", errors="replace") as file:
        return file.read().split("\n")


class Includes:
    """Every #include of every source file, and what it reaches."""

    def __init__(self, root, files):
        self.direct = {}  # file -> [(line number, included path, is a file of ours)]
        ours = set(files)
        for path in files:
            if not path.endswith(SOURCE):
                continue
            found = []
            for number, line in enumerate(read_lines(root, path), 1):
                match = INCLUDE.match(line)
                if match:
                    found.append((number, match.group(2), match.group(2) in ours))
            self.direct[path] = found

    def reach(self, start):
        """{included path: the chain of our files that leads to it} over the closure of `start`."""
        reached, queue = {}, [(start, (start,))]
        seen = {start}
        while queue:
            path, chain = queue.pop()
            for _, target, ours in self.direct.get(path, []):
                reached.setdefault(target, chain)
                if ours and target not in seen:
                    seen.add(target)
                    queue.append((target, chain + (target,)))
        return reached


def check_floors(floors, includes, report):
    edges = {}
    for path, found in includes.direct.items():
        room = floors.room_of(path)
        if path.startswith("tests/") or room is None:
            continue
        for number, target, _ in found:
            for prefixes, rooms in floors.only:
                if target.startswith(tuple(prefixes)) and room not in rooms:
                    report(path, number, f"{room} may not include {target}")
            other = floors.room_of(target)
            if other is None or other == room:
                continue
            edges.setdefault(room, {}).setdefault(other, (path, number))
            allowed = floors.may[room]
            if "*" not in allowed and other not in allowed:
                report(path, number, f"{room} may not include {other} ({target})")
    check_cycles(edges, report)
    for path in includes.direct:
        room = floors.room_of(path)
        banned = [p for rooms, prefixes in floors.never if room in rooms for p in prefixes]
        if path.startswith("tests/") or not banned:
            continue
        for target, chain in sorted(includes.reach(path).items()):
            if target.startswith(tuple(banned)):
                report(path, 1, f"{room} must not reach {target}, through {' -> '.join(chain)}")


def check_cycles(edges, report):
    state = {}

    def visit(room, chain):
        state[room] = "open"
        for other, (path, number) in sorted(edges.get(room, {}).items()):
            if state.get(other) == "open":
                report(path, number, "cycle of folders: " + " -> ".join(chain + [room, other]))
            elif other not in state:
                visit(other, chain + [room])
        state[room] = "closed"

    for room in sorted(edges):
        if room not in state:
            visit(room, [])


def check_functions(path, lines, report):
    """Bodies as clang-format leaves them: an opening line that ends in '{', closed by '}' at the same indent."""
    limit = KERNEL_FUNCTION_LINES_MAX if path.startswith("kernels/") else FUNCTION_LINES_MAX
    opened = {}
    for number, line in enumerate(lines, 1):
        body = line.strip()
        indent = len(line) - len(line.lstrip())
        if indent <= 4 and line.endswith("{") and not re.match(
                r"^(namespace|extern|class|struct|enum|union|template|using|}|#|constexpr|static const|const|inline const)",
                body):
            opened[indent] = number
        elif body.startswith("}") and indent in opened:
            length = number - opened.pop(indent) + 1
            if length > limit:
                report(path, number, f"a function of {length} lines (at most {limit})")


def check_header(path, lines, report):
    if "#pragma once" not in lines[:3]:
        report(path, 1, "a header starts with #pragma once")
    for line in lines:
        if line.startswith("//"):
            return
        if line.startswith(("namespace", "class", "struct")):
            break
    report(path, 1, "a header without a manual: say what is in it before the first declaration")


def check_text(path, lines, report):
    for number, line in enumerate(lines, 1):
        for pattern, what in LEFTOVERS:
            if pattern.search(line):
                report(path, number, f"{what}: {pattern.search(line).group(0)}")
        if path.endswith(SOURCE) and len(line) > COLUMNS_MAX:
            report(path, number, f"{len(line)} columns (at most {COLUMNS_MAX})")
    if path.endswith(SIZED) and len(lines) - 1 > FILE_LINES_MAX:
        report(path, len(lines), f"{len(lines) - 1} lines (at most {FILE_LINES_MAX})")


def check_names(files, report):
    for path in files:
        for part in path.split("/"):
            stem = part.split(".")[0] if not part.startswith(".") else part
            bad = NAMES & set(re.split(r"[_\-.]", stem.lower()))
            if bad:
                report(path, 1, f"a name that says nothing: {', '.join(sorted(bad))}")


def check_built(root, files, report):
    """Every .cc is named in the CMakeLists.txt of its folder or of a folder above: no sleeping code."""
    listed = {os.path.dirname(f): "\n".join(read_lines(root, f)) for f in files
              if os.path.basename(f) == "CMakeLists.txt"}
    for path in files:
        if not path.endswith((".cc", ".cu")):
            continue
        folder, name = os.path.dirname(path), os.path.basename(path)
        while True:
            relative = os.path.relpath(path, folder) if folder else path
            text = listed.get(folder, "")
            stem = re.escape(os.path.splitext(relative)[0])
            if re.search(rf"(^|[\s/{{}}$\"]){stem}(\.cc|\.cu)?($|[\s\")])", text) or name in text:
                break
            if not folder:
                report(path, 1, "no CMakeLists.txt names this file")
                break
            folder = os.path.dirname(folder)


LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


def check_links(root, path, lines, report):
    """Relative links of a document lead somewhere."""
    for number, line in enumerate(lines, 1):
        for target in LINK.findall(line):
            if "://" not in target and not os.path.exists(os.path.join(root, os.path.dirname(path), target)):
                report(path, number, f"a link to nowhere: {target}")


def check_document(root, floors, report):
    """docs/architecture.md names every room of the table."""
    path = "docs/architecture.md"
    text = "\n".join(read_lines(root, path))
    for room in floors.may:
        if room not in text:
            report(path, 1, f"does not mention {room}")


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    root = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else os.path.join(here, "..", ".."))
    files = listed_files(root)
    findings = []

    def report(path, number, what):
        findings.append(f"{path}:{number}: {what}")

    floors = Floors(os.path.join(here, "floors.txt"))
    includes = Includes(root, files)
    check_floors(floors, includes, report)
    check_names(files, report)
    check_built(root, files, report)
    check_document(root, floors, report)
    for path in files:
        name = os.path.basename(path)
        if not name.endswith(TEXT) and name not in ("CMakeLists.txt", "run") or path.startswith("tests/golden/"):
            continue
        lines = read_lines(root, path)
        check_text(path, lines, report)
        if path.endswith(SOURCE):
            check_functions(path, lines, report)
        if path.endswith(".md"):
            check_links(root, path, lines, report)
        if path.endswith(".h"):
            check_header(path, lines, report)
    for line in sorted(findings):
        print(line)
    print(f"lint: {len(files)} files, {len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
