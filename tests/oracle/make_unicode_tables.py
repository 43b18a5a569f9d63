"""Writes core/text/jinja/unicode_tables.h: which characters Python prints as they are, and how it changes their case.
Run with the Python of install.sh (3.11: Unicode 14)."""

import pathlib
import textwrap
import unicodedata

TARGET = pathlib.Path(__file__).resolve().parents[2] / "core" / "text" / "jinja" / "unicode_tables.h"
CODES = [code for code in range(0x110000) if not 0xd800 <= code < 0xe000]


def runs(codes):
    """[(first, last)] of consecutive codes."""
    found = []
    for code in codes:
        if found and code == found[-1][1] + 1:
            found[-1][1] = code
        else:
            found.append([code, code])
    return found


def case_runs(single):
    """[(first, last, step, delta)] for {code: code}."""
    keys, found, at = sorted(single), [], 0
    while at < len(keys):
        best, best_step = at, 1
        delta = single[keys[at]] - keys[at]
        for step in (1, 2):
            end = at
            while end + 1 < len(keys) and keys[end + 1] == keys[end] + step and single[keys[end + 1]] - keys[end + 1] == delta:
                end += 1
            if end > best:
                best, best_step = end, step
        found.append((keys[at], keys[best], best_step, delta))
        at = best + 1
    return found


def maps(change):
    single, several = {}, {}
    for code in CODES:
        to = change(chr(code))
        if len(to) > 1:
            several[code] = to
        elif to != chr(code):
            single[code] = ord(to)
    return case_runs(single), several


def quoted(text):
    return '"' + "".join(f"\\x{byte:02x}" for byte in text.encode()) + '"'


def main():
    lower, lower_several = maps(str.lower)
    upper, upper_several = maps(str.upper)
    title = {code: chr(code).title() for code in CODES if chr(code).title() != chr(code).upper()}
    hidden = runs(code for code in CODES if not chr(code).isprintable())
    lines = [f"""#pragma once

// What Python 3.11 (Unicode {unicodedata.unidata_version}) knows of characters: whether repr() shows
// them, and their case. Written by tests/oracle/make_unicode_tables.py.

#include <array>
#include <cstdint>

namespace octavo::jinja {{

struct HiddenRun {{
  char32_t first;
  char32_t last;
}};
// first, first + step, ... last: the other case is delta away.
struct CaseRun {{
  char32_t first;
  char32_t last;
  uint8_t step;
  int32_t delta;
}};
struct CaseText {{
  char32_t code;
  const char* text;
}};

// clang-format off

// Escaped by repr()."""]

    def table(name, kind, rows):
        cells = " ".join(row.replace(" ", "") + "," for row in rows)
        lines.append(f"inline constexpr std::array<{kind}, {len(rows)}> {name} = {{{{")
        lines.extend("    " + line for line in textwrap.wrap(cells, 94, break_long_words=False))
        lines.append("}};")

    table("kHidden", "HiddenRun", [f"{{{first:#x}, {last:#x}}}" for first, last in hidden])
    for name, found in (("kLower", lower), ("kUpper", upper)):
        table(name, "CaseRun", [f"{{{first:#x}, {last:#x}, {step}, {delta}}}" for first, last, step, delta in found])
    lines.append("// Of several characters, or other than the upper case.")
    for name, found in (("kLowerTexts", lower_several), ("kUpperTexts", upper_several), ("kTitleTexts", title)):
        table(name, "CaseText", [f"{{{code:#x}, {quoted(text)}}}" for code, text in sorted(found.items())])
    lines.append("\n// clang-format on\n\n}  // namespace octavo::jinja\n")
    TARGET.write_text("\n".join(lines))


if __name__ == "__main__":
    main()
