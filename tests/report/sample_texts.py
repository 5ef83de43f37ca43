"""Texts of the synthetic runs: rows with label, a label that is easily confused, task and context; and a sentence."""

ROWS = (
    ("Opslaan als…", "nld", "afr", "ui", "latin/short"),
    (
        "Ta strona nie istnieje. Wróć do strony głównej albo skorzystaj z wyszukiwarki.",
        "pol",
        "ces",
        "web",
        "latin/long",
    ),
    ("Сачувај измене", "srp", "mkd", "ui", "cyrillic/short"),
    ("Правителството прие новия бюджет след дълъг дебат в парламента.", "bul", "mkd", "news", "cyrillic/long"),
    ("حفظ التغييرات", "arb", "fas", "ui", "arabic/short"),
    ("این صفحه در دسترس نیست؛ لطفاً بعداً دوباره تلاش کنید.", "fas", "arb", "web", "arabic/long"),
    ("請稍後再試", "zho", "jpn", "chat", "han/short"),
    ("ok takk, vi ses i morgen!", "nob", "dan", "chat", "latin/short"),
    ("Godkend alle ændringer, før du lukker vinduet, ellers går de tabt.", "dan", "nob", "ui", "latin/long"),
    ("今日はいい天気ですね。散歩に行きませんか。", "jpn", "zho", "chat", "han/long"),
)
_FIRST = (
    "The | court| held| that| the| dosage| of| hepar|in| was| not| a| material| term| ,| so| `|return| claim|.|valid|`"
)
_SECOND = (
    "| is| False|.| On| appeal| the| patient|'|s| expert| testified| that| intra|venous| ad|ministr|ation| requires"
)
_THIRD = (
    "| monitoring| of| the| part|ial| throm|bo|plastin| time|.|\n|def| liability|(|breach|,| harm|):|\n|    |return"
)
SENTENCE = f"{_FIRST}{_SECOND}{_THIRD}| breach| and| harm".split("|")
