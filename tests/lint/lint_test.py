#!/usr/bin/env python3
"""lint.py finds what it says it finds: each case breaks one rule in a small tree and names the finding it expects."""

import os
import subprocess
import sys
import tempfile
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
HEADER = "#pragma once\n\n// A manual.\n"


def lint(files):
    with tempfile.TemporaryDirectory() as root:
        os.makedirs(os.path.join(root, "docs"))
        with open(os.path.join(HERE, "floors.txt"), encoding="utf-8") as file:
            rooms = " ".join(line.split(":")[0] for line in file)
        tree = {"docs/architecture.md": rooms, **files}
        for path, text in tree.items():
            os.makedirs(os.path.dirname(os.path.join(root, path)) or root, exist_ok=True)
            with open(os.path.join(root, path), "w", encoding="utf-8") as file:
                file.write(text)
        done = subprocess.run([sys.executable, os.path.join(HERE, "lint.py"), root], check=False,
                              capture_output=True, text=True)
        return done.stdout


class LintTest(unittest.TestCase):
    def expect(self, files, finding):
        self.assertIn(finding, lint(files))

    def test_clean_tree(self):
        self.assertIn(" 0 findings", lint({"core/base/a.h": HEADER}))

    def test_floor(self):
        self.expect({"core/base/a.h": HEADER + '#include "core/store/b.h"\n', "core/store/b.h": HEADER},
                    "core/base may not include core/store")

    def test_floor_of_nested_room(self):
        self.expect({"kernels/a.h": HEADER + '#include "core/base/b.h"\n', "core/base/b.h": HEADER},
                    "kernels may not include core/base")

    def test_cycle(self):
        self.expect({"core/base/a.h": HEADER + '#include "core/store/b.h"\n',
                     "core/store/b.h": HEADER + '#include "core/base/a.h"\n'}, "cycle of folders")

    def test_closure(self):
        self.expect({"core/tensor/bare/a.h": HEADER + '#include "core/tensor/bare/b.h"\n',
                     "core/tensor/bare/b.h": HEADER + '#include "absl/status/status.h"\n'},
                    "core/tensor/bare must not reach absl/status/status.h, through core/tensor/bare/a.h")

    def test_third_party(self):
        self.expect({"core/base/a.h": HEADER + "#include <sqlite3.h>\n"}, "core/base may not include sqlite3.h")

    def test_sizes(self):
        self.expect({"core/base/a.h": HEADER + "int x;\n" * 400}, "403 lines (at most 400)")
        self.expect({"core/base/a.h": HEADER + "// " + "x" * 100 + "\n"}, "103 columns")
        self.expect({"core/base/a.h": HEADER + "inline int F() {\n" + "  F();\n" * 80 + "}\n"},
                    "a function of 82 lines")

    def test_names(self):
        self.expect({"core/base/string_" + "util.h": HEADER}, "a name that says nothing")

    def test_header_manual(self):
        self.expect({"core/base/a.h": "#pragma once\nnamespace octavo {}\n"}, "without a manual")

    def test_leftovers(self):
        self.expect({"core/base/a.h": HEADER + "// TO" + "DO: later\n"}, "leftover note")
        self.expect({"tests/a_test.cc": "GTEST_" + "SKIP();\n"}, "a test that does not run")
        self.expect({"README.md": "see /ho" + "me/me/x\n"}, "path of one machine")

    def test_links(self):
        self.expect({"README.md": "[x](docs/nowhere.md)\n"}, "a link to nowhere: docs/nowhere.md")

    def test_sleeping_code(self):
        self.expect({"core/base/a.cc": "int x;\n", "core/base/CMakeLists.txt": "octavo_library(core/base SRCS b.cc)\n"},
                    "no CMakeLists.txt names this file")


if __name__ == "__main__":
    unittest.main()
