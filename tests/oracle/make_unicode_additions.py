"""Prints the tables of core/text/unicode_additions.h.

Compares, over every code point, what Hugging Face `tokenizers` takes for letters and numbers with
the Unicode 14 of this Python's unicodedata (the version of Debian 12's PCRE2). Run it with the
pinned environment of tests/oracle/install.sh under Python 3.11.
"""

import sys
import unicodedata

from tokenizers import Regex, normalizers, pre_tokenizers

CODES = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
# What Unicode 15 has with a combining class or a decomposition: this Python does not know, utf8proc does.
MARKS_OF_15 = [*range(0x10EFD, 0x10F00), 0x11F41, 0x11F42, *range(0x1E030, 0x1E06E), 0x1E08F, *range(0x1E4EC, 0x1E4F0)]


def matched_by(pattern):
    split = pre_tokenizers.Split(Regex(pattern), "removed")
    return {c for c in CODES if not split.pre_tokenize_str(chr(c))}


def isolated_by_digits():
    digits = pre_tokenizers.Digits(individual_digits=True)
    return {c for c in CODES if len(digits.pre_tokenize_str("a" + chr(c) + "a")) == 3}


def never_normalized():
    """Characters with a combining class or a decomposition that the library's older tables do not know."""
    nfd, nfkd = normalizers.NFD(), normalizers.NFKD()
    found = []
    for code in [c for c in CODES if unicodedata.combining(chr(c)) or unicodedata.decomposition(chr(c))] + MARKS_OF_15:
        # A mark that is known changes places with one of another class.
        texts = [chr(code), f"a\u0345{chr(code)}", f"a{chr(code)}\u0334"]
        if all(form.normalize_str(text) == text for form in (nfd, nfkd) for text in texts):
            found.append(code)
            # Nor do its parts compose.
            found += [ord(c) for c in unicodedata.normalize("NFD", chr(code)) if unicodedata.name(c, "") and
                      not unicodedata.decomposition(chr(code)).startswith("<")]
    return set(found)


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
    print_table("kNeverNormalized", "Marks and characters with a decomposition, newer than the tables that normalize.",
                never_normalized())


if __name__ == "__main__":
    main()
