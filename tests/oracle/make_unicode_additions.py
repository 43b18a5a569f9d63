"""Prints the tables of core/text/unicode_additions.h.

Compares, over every code point, what Hugging Face `tokenizers` takes for letters and numbers with
the Unicode 14 of this Python's unicodedata (the version of Debian 12's PCRE2). Run it with the
pinned environment of tests/oracle/install.sh under Python 3.11.
"""

import sys
import unicodedata

from tokenizers import Regex, pre_tokenizers

CODES = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]


def matched_by(pattern):
    split = pre_tokenizers.Split(Regex(pattern), "removed")
    return {c for c in CODES if not split.pre_tokenize_str(chr(c))}


def isolated_by_digits():
    digits = pre_tokenizers.Digits(individual_digits=True)
    return {c for c in CODES if len(digits.pre_tokenize_str("a" + chr(c) + "a")) == 3}


def of_category(first):
    return {c for c in CODES if unicodedata.category(chr(c))[0] == first}


def print_table(name, comment, added):
    ranges = []
    for code in sorted(added):
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    print(f"// {comment}")
    print(f"inline constexpr auto {name} = std::to_array<CodeRange>({{")
    for first, last in ranges:
        print(f"    {{{first:#x}, {last:#x}}},")
    print("});\n")


def main():
    if unicodedata.unidata_version != "14.0.0":
        sys.exit(f"this Python knows Unicode {unicodedata.unidata_version}; 14.0.0 is needed")
    letters, numbers = of_category("L"), of_category("N")
    seen_letters, seen_numbers = matched_by(r"\p{L}"), matched_by(r"\p{N}")
    seen_digits = isolated_by_digits()
    lost = (letters - seen_letters) | (numbers - seen_numbers) | (numbers - seen_digits)
    if lost:
        sys.exit(f"no longer in their class: {sorted(lost)}")
    decimal = {c for c in CODES if unicodedata.category(chr(c)) == "Nd"}
    print_table("kLettersAdded", "General category L*.", seen_letters - letters)
    print_table("kNumbersAdded", "General category N*, of which some are Nd.",
                seen_numbers - numbers)
    print_table("kDecimalsAdded", "General category Nd.", matched_by(r"\d") - decimal)
    print_table("kDigitsStepAdded", "General category N*, as the Digits pre-tokenizer sees it.",
                seen_digits - numbers)


if __name__ == "__main__":
    main()
