#!/usr/bin/env python3
"""Prints the English text of Debian's `debian-handbook` package: a few hundred kilobytes of real prose for perplexity.

Every paragraph of the HTML pages (in the order of their names) longer than 200 characters, joined with two newlines.
Standard library only.
"""

import html.parser
import pathlib
import sys

PAGES = pathlib.Path("/usr/share/doc/debian-handbook/html/en-US")


class Paragraphs(html.parser.HTMLParser):
    """Collects the text of <p> and of publican's <div class="para">, white space folded."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.found = []
        self.open = []  # stack of [tag, is paragraph, text parts]

    def handle_starttag(self, tag, attrs):
        if tag in ("p", "div"):
            self.open.append([tag, tag == "p" or ("class", "para") in attrs, []])

    def handle_endtag(self, tag):
        if self.open and self.open[-1][0] == tag:
            _, is_paragraph, parts = self.open.pop()
            text = " ".join("".join(parts).split())
            if is_paragraph and len(text) > 200:
                self.found.append(text)

    def handle_data(self, data):
        if self.open:
            self.open[-1][2].append(data)


def main():
    paragraphs = []
    for page in sorted(PAGES.glob("*.html")):
        parser = Paragraphs()
        parser.feed(page.read_text(encoding="utf-8"))
        paragraphs += parser.found
    if not paragraphs:
        sys.exit(f"error: no pages under {PAGES}: install the package debian-handbook")
    sys.stdout.write("\n\n".join(paragraphs))


if __name__ == "__main__":
    main()
