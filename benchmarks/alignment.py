"""How well two tokenizers lie side by side on a text: positions with a partner, shared tokens, same next tokens.

    python benchmarks/alignment.py STUDENT TEACHER [--texts FOLDER] [--json FILE]
    python benchmarks/alignment.py --smoke       # two tiny tokenizers made on the spot

Each is a folder that ``transformers`` opens, or a ``tokenizer.json``. The texts are the longest topics of Python's own
documentation, or the ``.txt`` files of a folder. No model is read.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mashbill.teachers.alignment import UnalignableError, align
from mashbill.teachers.shared_tokens import SharedTokens
from mashbill.teachers.token_bytes import TokenBytes

N_TEXTS = 60


@dataclass(frozen=True)
class Figures:
    """What was counted.

    Attributes:
        shared: Tokens of the student that the teacher has.
        n_tokens: Tokens of the student.
        positions: Of the student.
        partners: Share of them with a partner.
        shared_next: Share of those where the teacher's next token of the text is one of the student's.
        same_next: Share of those where both take the same next token.
        refused: Texts that the teacher cannot read.
    """

    shared: int
    n_tokens: int
    positions: int
    partners: float
    shared_next: float
    same_next: float
    refused: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("student", type=Path, nargs="?")
    parser.add_argument("teacher", type=Path, nargs="?")
    parser.add_argument("--texts", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--smoke", action="store_true")
    given = parser.parse_args()
    texts = texts_of(given.texts)
    if given.smoke or given.teacher is None:
        names, found = (Path("half"), Path("whole")), compare(trained(texts[0], 400), trained(texts[1], 600), texts[:3])
    else:
        names, found = (given.student, given.teacher), compare(opened(given.student), opened(given.teacher), texts)
    print(row(*names, found))
    if given.json:
        given.json.write_text(json.dumps(asdict(found), indent=1) + "\n", encoding="utf-8")


def compare(student_tokenizer: Any, teacher_tokenizer: Any, texts: Sequence[str]) -> Figures:
    """Lay every text's tokens side by side and count."""
    student = TokenBytes.of(student_tokenizer, owner="the student")
    teacher = TokenBytes.of(teacher_tokenizer, owner="the teacher")
    n_tokens = len(student.pieces) + len(student.special)
    n_student = max([*student.pieces, *student.special]) + 1
    shared = SharedTokens.of(student, teacher, n_student=n_student, teacher_id="teacher")
    control = {s: t for t, s in shared.student_of.items() if s in student.special}

    def encode(text: str) -> Sequence[int]:
        return teacher_tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]

    n, partners, followed, shared_next, same_next, refused = 0, 0, 0, 0, 0, 0
    for text in texts:
        ids = student_tokenizer(text, split_special_tokens=True, verbose=False)["input_ids"]
        try:
            aligned = align(ids, student=student, teacher=teacher, control=control, encode=encode)
        except UnalignableError:
            refused += 1
            continue
        n, partners = n + len(aligned.partner), partners + sum(place >= 0 for place in aligned.partner)
        for t, place in enumerate(aligned.partner):
            if 0 <= place < len(aligned.ids) - 1:
                following = shared.student_of.get(aligned.ids[place + 1])
                followed += 1
                shared_next += following is not None
                same_next += following == ids[t + 1]
    parts = (partners / n, shared_next / followed, same_next / followed)
    return Figures(shared.n_shared, n_tokens, n, *parts, refused)


def row(student: Path, teacher: Path, found: Figures) -> str:
    """Return the figures as a line of a table."""
    shares = " | ".join(f"{100 * share:.1f} %" for share in (found.partners, found.shared_next, found.same_next))
    return f"| {student.stem} | {teacher.stem} | {found.shared:,} of {found.n_tokens:,} | {shares} |"


def opened(path: Path) -> Any:
    """Open a tokenizer."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    if path.is_dir():
        return AutoTokenizer.from_pretrained(path, local_files_only=True)
    return PreTrainedTokenizerFast(tokenizer_file=str(path), bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def trained(text: str, n_tokens: int) -> Any:
    """Make a byte-level tokenizer of one text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=n_tokens, special_tokens=["<end>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([text], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")


def texts_of(folder: Path | None) -> list[str]:
    """Return the texts, the longest first."""
    if folder is not None:
        return [file.read_text(encoding="utf-8") for file in sorted(folder.glob("*.txt"))]
    from pydoc_data.topics import topics

    return sorted(topics.values(), key=len, reverse=True)[:N_TEXTS]


if __name__ == "__main__":
    main()
