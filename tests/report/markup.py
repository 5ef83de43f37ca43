"""Reading a page back: every element, and the text in tables."""

from html.parser import HTMLParser

VOID = {"meta", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """Elements with their attributes, tables as lists of rows of text, and tags that were opened and never closed."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.tables, self.captions, self.open, self.text = [], [], [], [], []
        self.unbalanced = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
            self.captions.append("")
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.unbalanced.append(tag)

    def handle_data(self, data):
        self.text.append(data)
        if "caption" in self.open:
            self.captions[-1] += data
        elif "small" not in self.open and {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data.strip()

    def of(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    def table(self, caption):
        return self.tables[self.captions.index(caption)]

    def plain(self):
        return " ".join(" ".join(self.text).split())
