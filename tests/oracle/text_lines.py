"""Text to tokenize: lines of files that every Debian system has, and generated Unicode. Seeded."""

import glob
import gzip
import random
import unicodedata

FILES = [
    "/usr/share/common-licenses/*",
    "/usr/share/perl/*/*.pm",
    "/usr/share/perl/*/*/*.pm",
    "/usr/lib/python3*/*.py",
    "/usr/share/doc/*/copyright",
    "/usr/share/doc/*/changelog*.gz",
    "/usr/share/i18n/locales/*",
    "/usr/include/*.h",
]
SPACES = [" ", "  ", "    ", "\t", "\n", "\r\n", "\r", "\n\n", " \n", "\u00a0", "\u2003", "\u3000", "\u2028",
          "\u0085", "\u200b", "\ufeff", "\u180e", "\x0b", "\x0c", "\x1c", " " * 17]
WORDS = ["I'm", "they'll", "WE'VE", "it's", "IT'S", "don't", "'S", "'\u017f", "'LL", "\u212a", "naïve", "Straße",
         "O'Brien", "x86_64", "3.14159", "1234567890", "0xDEADBEEF", "١٢٣", "½", "Ⅳ", "①②", "二〇二四", "printf(\"%d\\n\");",
         "std::vector<int>", "foo_bar->baz[0]", "e\u0301", "a\u0308\u0323", "हिन्दी", "ภาษาไทย", "日本語テキスト", "한국어", "العربية",
         "👩‍👩‍👧‍👦", "🏳️‍🌈", "🇩🇪", "👍🏽", "…", "—", "“quoted”", "€100", "!!!", "...", "://", "</tag>", "=>", "\u200d", "ﬁ",
         "ÅÅ", "İstanbul", "ǆ", "ﷺ", "𝕳𝖊𝖑𝖑𝖔", "\x00", "\x7f", "\ufffd", "\U0010ffff", "\ue000"]


def file_lines(count, seed):
    rng = random.Random(seed)
    paths = sorted(path for pattern in FILES for path in glob.glob(pattern))
    rng.shuffle(paths)
    lines = []
    for path in paths:
        if len(lines) >= count:
            break
        try:
            data = gzip.open(path).read() if path.endswith(".gz") else open(path, "rb").read()
        except OSError:
            continue
        found = [line for line in data.decode("utf-8", "replace").split("\n") if line.strip()]
        lines += rng.sample(found, min(len(found), 40))
        # A few lines together, line feeds included.
        for _ in range(min(len(found), 3)):
            start = rng.randrange(len(found))
            lines.append("\n".join(found[start:start + rng.randrange(2, 6)]))
    return lines[:count]


def random_char(rng):
    kind = rng.randrange(8)
    if kind == 0:
        return chr(rng.randrange(0x20, 0x7F))
    if kind == 1:
        return chr(rng.randrange(0x80, 0x800))
    if kind == 2:
        return chr(rng.choice([rng.randrange(0x800, 0xD800), rng.randrange(0xE000, 0x10000)]))
    if kind == 3:
        return chr(rng.randrange(0x10000, 0x20000))
    if kind == 4:
        return chr(rng.randrange(0x20000, 0x110000))
    if kind == 5:
        return chr(rng.randrange(0x300, 0x370))
    if kind == 6:
        return chr(rng.randrange(0x1F300, 0x1FB00))
    return rng.choice(SPACES)


def generated_line(rng, added):
    parts = []
    for _ in range(rng.randrange(1, 24)):
        kind = rng.randrange(12)
        if kind < 5:
            parts.append(rng.choice(WORDS))
        elif kind < 8:
            parts.append(rng.choice(SPACES))
        elif kind == 8:
            parts.append("".join(random_char(rng) for _ in range(rng.randrange(1, 6))))
        elif kind == 9:
            parts.append(str(rng.randrange(10 ** rng.randrange(1, 12))))
        elif kind == 10 and added:
            parts.append(rng.choice(added))
        else:
            parts.append(rng.choice(["a", "the", " of", "Zebra", "x" * rng.randrange(1, 40), "-" * rng.randrange(1, 40)]))
    line = "".join(parts)
    if rng.randrange(4) == 0:
        line = unicodedata.normalize(rng.choice(["NFC", "NFD", "NFKC"]), line)
    return line


def lines(count, seed, added=()):
    """`count` texts: half from files, half generated with `added` tokens strewn in."""
    rng = random.Random(seed)
    out = file_lines(count // 2, seed)
    while len(out) < count:
        out.append(generated_line(rng, list(added)))
    rng.shuffle(out)
    return out


def every_character():
    """Texts in which every code point stands alone, between letters, between digits, and after a space."""
    codes = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    out = []
    for start in range(0, len(codes), 64):
        out.append("".join(f"a{chr(c)}b {chr(c)}1{chr(c)}2 " for c in codes[start:start + 64]))
    return out
