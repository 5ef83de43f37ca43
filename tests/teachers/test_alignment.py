"""Two tokenizers side by side: a position has a partner exactly where both have consumed the same bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mashbill.teachers.alignment import UnalignableError, align
from mashbill.teachers.token_bytes import TokenBytes

TEXT = "aab ab\nbéa b"
SPECIAL = {90: "<s>", 91: "</s>", 92: "<turn>"}


def pieces_of(words) -> dict[int, bytes]:
    """Give every byte of the alphabet a token, and some longer strings."""
    every = [bytes([byte]) for byte in sorted(set("ab \n€é".encode()))] + sorted({word.encode() for word in words})
    return dict(enumerate(dict.fromkeys(every)))


def tokens(words=(), *, start=(), space=False, special=SPECIAL, end=91) -> TokenBytes:
    return TokenBytes(pieces_of(words), special, frozenset(), start, end, leads_with_space=space)


def greedy(table: TokenBytes):
    """Tokenize by the longest match, from the left, as a plain tokenizer of these tokens does."""
    by_bytes = {piece: id for id, piece in table.pieces.items()}

    def encode(text: str) -> list[int]:
        rest, ids = (" " if table.leads_with_space else "").encode() + text.encode(), []
        while rest:
            length = max(n for n in range(1, len(rest) + 1) if rest[:n] in by_bytes)
            ids.append(by_bytes[rest[:length]])
            rest = rest[length:]
        return ids

    return encode


def laid(text: str, student: TokenBytes, teacher: TokenBytes, control=None):
    ids = [*student.start, *greedy(student)(text), 91]
    control = {91: 91} if control is None else control
    return ids, align(ids, student=student, teacher=teacher, control=control, encode=greedy(teacher))


words = st.sets(st.text("ab é", min_size=2, max_size=4), max_size=8)
texts = st.text("ab \né€", min_size=1, max_size=20)


@given(texts, words, words, st.booleans(), st.booleans())
def test_partners_have_consumed_the_same_bytes_and_nobody_else_has(text, mine, theirs, student_starts, teacher_starts):
    student = tokens(mine, start=(90,) if student_starts else ())
    teacher = tokens(theirs, start=(90,) if teacher_starts else ())
    ids, aligned = laid(text, student, teacher)
    full = [*teacher.start, *greedy(teacher)(text)]
    consumed = [len(teacher.joined(full[: j + 1])) for j in range(len(full))]
    for t, partner in enumerate(aligned.partner):
        mine_consumed = len(student.joined(ids[: t + 1]))
        assert partner == (consumed.index(mine_consumed) if mine_consumed in consumed else -1)
    assert len(aligned.partner) == len(ids) - 1
    assert list(aligned.ids) == full[: max(aligned.partner, default=-1) + 1]


@given(texts, words)
def test_a_tokenizer_is_its_own_partner_everywhere(text, mine):
    table = tokens(mine, start=(90,))
    ids, aligned = laid(text, table, table)
    assert list(aligned.partner) == list(range(len(ids) - 1))
    assert list(aligned.ids) == ids[:-1]


def test_a_straddling_token_leaves_a_position_alone():
    ids, aligned = laid("ab ab", tokens(["ab"]), tokens(["b a"]))  # ab| |ab  against  a|b a|b
    assert [tokens(["ab"]).pieces.get(id) for id in ids] == [b"ab", b" ", b"ab", None]
    assert aligned.partner == (-1, -1, 2)


def test_the_label_is_read_so_that_a_token_beyond_the_end_shows():
    """Without its last token the text would end where a token of the teacher begins; it does not."""
    student, teacher = tokens(), tokens(["ab"])
    ids = greedy(student)("ab")
    control: dict[int, int] = {}
    assert align(ids, student=student, teacher=teacher, control=control, encode=greedy(teacher)).partner == (-1,)


def test_a_leading_space_that_is_nobodys_shifts_and_takes_the_start_along():
    student, teacher = tokens(start=(90,)), tokens([" a"], start=(90,), space=True)
    _, aligned = laid("ab", student, teacher)
    assert [teacher.pieces.get(id) for id in greedy(teacher)("ab")] == [b" a", b"b"]
    assert aligned.partner == (-1, 1, 2)  # what is expected before ` a` is not what is expected before `a`
    apart = laid("ba", student, tokens([" a"], start=(90,), space=True))[1]  # the space is a token of its own
    assert apart.partner == (1, 2, 3)


def test_a_text_that_begins_with_a_space_needs_no_other():
    student, teacher = tokens([" a"]), tokens([" a"], start=(90,), space=True)
    _, aligned = laid(" ab", student, teacher)
    assert aligned.ids == (90, *greedy(teacher)("ab")[: len(aligned.ids) - 1])
    assert aligned.partner == (1, 2)


def test_control_tokens_are_borders_of_their_own():
    student, teacher = tokens(), tokens(["ab", "ba"])
    encode = greedy(student)
    ids = [92, *encode("ab"), 92, *encode("ba"), 91]
    aligned = align(ids, student=student, teacher=teacher, control={92: 92, 91: 91}, encode=greedy(teacher))
    assert aligned.ids[0] == 92
    assert aligned.partner == (0, -1, 1, 2, -1, 3)
    with pytest.raises(UnalignableError, match="no token for `<turn>`"):
        align(ids, student=student, teacher=teacher, control={91: 91}, encode=greedy(teacher))


def test_an_end_that_the_teacher_lacks_is_only_a_label():
    _, aligned = laid("ab", tokens(), tokens(), control={})
    assert aligned.partner == (0, 1)


def test_a_block_may_begin_and_end_within_a_character():
    """A long text is cut between tokens, and a token may end within a character."""
    student, teacher = tokens(), tokens()
    whole = greedy(student)("a€b€")
    ids = [*whole[2:], *greedy(student)("€")[:2]]
    aligned = align(ids, student=student, teacher=teacher, control={}, encode=greedy(teacher))
    assert len(aligned.partner) == len(ids) - 1
    pieces = [student.pieces[id] for id in ids]
    assert pieces[:3] == ["€".encode()[1:2], "€".encode()[2:], b"b"]
    # The two bytes at the beginning are no character; then `b€` is read, and the last two bytes are none again.
    assert aligned.partner == (-1, -1, 0, 1, 2, 3, -1)


def test_a_text_that_the_teacher_changes_is_refused():
    student = tokens()
    with pytest.raises(UnalignableError, match="not what the teacher's tokenizer makes of it"):
        align(
            greedy(student)("ab"), student=student, teacher=student, control={}, encode=lambda _: greedy(student)("a")
        )


def test_bytes_that_are_no_text_are_refused():
    student = tokens()
    middle = next(id for id, piece in student.pieces.items() if piece == "é".encode()[1:])
    ids = [*greedy(student)("ab"), middle, *greedy(student)("abab")]
    with pytest.raises(UnalignableError, match="bytes that are no text"):
        align(ids, student=student, teacher=student, control={}, encode=greedy(student))
