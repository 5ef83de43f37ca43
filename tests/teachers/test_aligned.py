"""A teacher with a tokenizer of its own, against the same sums done by hand from the model's logits."""

import json
import math
from dataclasses import replace
from pydoc_data.topics import topics

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, trainers
from transformers import PreTrainedTokenizerFast

from mashbill.teachers import LocalCausalLM, Vocabulary
from mashbill.teachers.aligned import UNSHARED, aligned, mapped_mass
from mashbill.teachers.token_bytes import TokenBytes


def sentencepiece(text: str, n_tokens: int) -> PreTrainedTokenizerFast:
    """Train a tokenizer of the other family: spaces are marks, one stands before every text, bytes can be spelled."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    spelled = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=n_tokens, special_tokens=["<unk>", "<s>", "</s>", *spelled], show_progress=False
    )
    tokenizer.train_from_iterator([text], trainer)
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [one for one in state["added_tokens"] if one["content"] not in spelled]
    tokenizer = Tokenizer.from_str(json.dumps(state))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


class World:
    """A student's tokenizer and rows, and a teacher on disk that has another tokenizer."""

    def __init__(self, llama, build, folder, tokenizer, causal_inputs):
        self.student, self.own = llama.tokenizer, tokenizer
        self.n_entries = len(llama.vocabulary)
        self.model = build.llama(len(tokenizer) + 5, seed=7)  # with padding rows
        self.path = build.save(folder, self.model, tokenizer)
        self.inputs = causal_inputs(llama.tokenizer)
        self.vocabulary = llama.vocabulary

    def teacher(self, **options):
        return aligned("t", self.student, self.own, self.n_entries, lambda columns: self.local(columns, **options))

    def local(self, columns, top_k=None, **options):
        return LocalCausalLM("t", self.path, self.vocabulary, top_k=top_k, columns=columns, **options)


@pytest.fixture(scope="module")
def byte_level(llama, build, tmp_path_factory, causal_inputs):
    other = build.tokenizer(topics["lambda"] + topics["import"] + topics["assert"], 420)
    return World(llama, build, tmp_path_factory.mktemp("byte-level"), other, causal_inputs)


@pytest.fixture(scope="module")
def marks(llama, build, tmp_path_factory, causal_inputs):
    other = sentencepiece(topics["lambda"] + topics["import"] + topics["assert"], 460)
    return World(llama, build, tmp_path_factory.mktemp("marks"), other, causal_inputs)


@pytest.fixture(params=["byte_level", "marks"])
def world(request) -> World:
    return request.getfixturevalue(request.param)


def spelled(tokenizer) -> dict[int, bytes]:
    """Read the bytes of tokens off the tokenizer's own decoder, a token between two others that frame it."""
    frame = tokenizer("x", add_special_tokens=False)["input_ids"][-1]
    found = {}
    for id in range(len(tokenizer)):
        if id in tokenizer.all_special_ids:
            continue
        token = tokenizer.convert_ids_to_tokens(id)
        text = tokenizer.backend_tokenizer.decode([frame, id, frame], skip_special_tokens=False)
        whole = text.startswith("x") and text.endswith("x") and "\ufffd" not in text
        found[id] = text[1:-1].encode() if whole else bytes.fromhex(token[3:5]) if token[:3] == "<0x" else None
    return found


def by_hand(world: World, row: int) -> dict[int, dict]:
    """Return ``{student position: {bytes: probability}}`` in float64, by the text and the model alone."""
    mask, ids = world.inputs.mask[row], world.inputs.input_ids[row]
    end = int(mask.nonzero().max()) + 1
    tokens = [*ids[:end].tolist(), int(world.inputs.labels[row, end - 1])]
    text = world.student.decode(tokens, clean_up_tokenization_spaces=False)
    own = world.own(text, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logits = world.model(torch.tensor([own])).logits[0].double()[:, : len(world.own)]
    p = logits.softmax(dim=-1)
    pieces = {id: TokenBytes.of(world.own, owner="it").pieces.get(id) for id in range(len(world.own))}
    consumed, total = [], -(pieces[own[0]].startswith(b" ") and not text.startswith(" "))
    for id in own:
        total += len(pieces[id] or b"")
        consumed.append(total)
    found = {}
    for t in range(end):
        if not mask[t]:
            continue
        read = world.student.decode(tokens[: t + 1], clean_up_tokenization_spaces=False)
        place = len(read.encode())
        if read.endswith("\ufffd"):
            found[t] = {}  # within a character, where no text tells how much was read
        elif place in consumed:
            found[t] = {}
            for id, piece in pieces.items():
                if piece is not None:
                    found[t][piece] = found[t].get(piece, 0) + float(
                        p[len(consumed) - 1 - consumed[::-1].index(place), id]
                    )
    return found


def test_pieces_are_what_the_decoder_says(world):
    table = TokenBytes.of(world.own, owner="it")
    checked = 0
    for id, piece in spelled(world.own).items():
        if piece is not None:
            assert table.pieces[id] == piece
            checked += 1
    assert checked > 150
    assert set(table.special) == set(world.own.all_special_ids)


def test_answers_are_the_models_own_on_shared_tokens(world):
    scored = world.teacher().score(world.inputs)
    theirs = TokenBytes.of(world.student, owner="it").pieces
    n_told = 0
    for row in range(len(world.inputs.row_ids)):
        expected = by_hand(world, row)
        for t in world.inputs.mask[row].nonzero().squeeze(1).tolist():
            ids = scored.distribution.ids[row, t]
            if t not in expected:
                assert bool((ids == -1).all())
                assert float(scored.distribution.log_tail[row, t]) == 0
                continue
            if not expected[t]:
                continue
            n_told += 1
            assert bool((ids >= 0).all()), (row, t)
            told = dict(zip(ids.tolist(), scored.distribution.logprobs[row, t].double().exp().tolist(), strict=True))
            for id, probability in told.items():
                here = expected[t].get(theirs.get(id), probability)
                assert probability == pytest.approx(here, abs=2e-6), (row, t, id)
            tail = float(scored.distribution.log_tail[row, t].double().exp())
            assert sum(told.values()) + tail == pytest.approx(1, abs=1e-5)
            shared = sum(p for piece, p in expected[t].items() if piece in set(theirs.values()))
            assert sum(told[id] for id in told if id in theirs) == pytest.approx(shared, abs=1e-5)
    assert n_told > 40


def test_the_mapped_mass_shows_in_the_statistics_whatever_is_kept(world):
    all_of_it, few = world.teacher().score(world.inputs), world.teacher(top_k=3)
    short = few.score(world.inputs)
    told = (all_of_it.distribution.ids >= 0).any(dim=-1)
    unshared = int(few.identity()[UNSHARED])
    stored = 1 - all_of_it.distribution.log_tail.double().exp()
    torch.testing.assert_close(mapped_mass(short.statistics, unshared=unshared)[told], stored[told], atol=2e-5, rtol=0)
    assert int(short.distribution.ids.shape[-1]) == 3
    assert 0.02 < float(stored[told].mean()) < 0.98


def test_who_has_no_partner_is_sure_of_nothing(byte_level):
    scored = byte_level.teacher(top_k=4).score(byte_level.inputs)
    alone = byte_level.inputs.mask & (scored.distribution.ids < 0).all(dim=-1)
    assert 0 < int(alone.sum()) < int(byte_level.inputs.mask.sum())
    statistics, n = scored.statistics, byte_level.n_entries
    assert statistics.entropy[alone].tolist() == pytest.approx([math.log(n)] * int(alone.sum()))
    assert torch.equal(statistics.entropy, statistics.entropy_low) is False
    assert torch.equal(statistics.entropy[alone], statistics.entropy_low[alone])
    assert float(statistics.margin[alone].abs().max()) == 0
    assert statistics.label_logprob[alone].tolist() == pytest.approx([-math.log(n)] * int(alone.sum()))


def test_beside_itself_a_teacher_says_what_it_says_alone(llama, causal_inputs):
    inputs = causal_inputs(llama.tokenizer)

    def local(columns=None):
        return LocalCausalLM("t", llama.path, llama.vocabulary, top_k=8, columns=columns)

    alone = local().score(inputs)
    beside = aligned("t", llama.tokenizer, llama.tokenizer, len(llama.vocabulary), local).score(inputs)
    mask = inputs.mask
    assert torch.equal(alone.distribution.ids[mask], beside.distribution.ids[mask])
    torch.testing.assert_close(alone.distribution.logprobs[mask], beside.distribution.logprobs[mask])
    torch.testing.assert_close(alone.distribution.log_tail[mask], beside.distribution.log_tail[mask])
    # The least probable tokens are left to the tail, and share it; a label may be one of them.
    differs = (alone.statistics.label_logprob - beside.statistics.label_logprob)[mask].abs() > 1e-3
    assert int(differs.sum()) <= 1
    assert bool((alone.statistics.label_logprob[mask][differs] < -8).all())


def test_rows_that_the_teacher_cannot_read_are_refused_and_the_others_are_not(byte_level):
    mask = byte_level.inputs.mask
    ids = byte_level.inputs.input_ids.clone()
    ids[2, 1] = byte_level.student.pad_token_id
    own = byte_level.own
    teacher = byte_level.teacher(top_k=4)
    whole = teacher.score(byte_level.inputs)
    without = replace(
        teacher, shared=replace(teacher.shared, student_of=dict(list(teacher.shared.student_of.items())[2:]))
    )
    scored = without.score(replace(byte_level.inputs, input_ids=ids))
    assert own.pad_token == "<pad>"
    assert scored.refused == {2: "the teacher has no token for `<pad>`, which stands in the row"}
    assert bool((scored.distribution.ids[2] == -1).all())
    assert torch.equal(scored.distribution.ids[3][mask[3]], whole.distribution.ids[3][mask[3]])


def test_a_text_that_spells_a_control_token_is_a_text(byte_level):
    teacher = byte_level.teacher(top_k=4)
    ids = byte_level.student("a <eos> b", split_special_tokens=True)["input_ids"]
    assert byte_level.student.eos_token_id not in ids
    shape = (1, len(ids) - 1)
    inputs = replace(
        byte_level.inputs,
        row_ids=("r",),
        texts=("",),
        input_ids=torch.tensor([ids[:-1]]),
        labels=torch.tensor([ids[1:]]),
        mask=torch.ones(shape, dtype=torch.bool),
    )
    assert teacher.score(inputs).refused == {}


def test_a_batch_in_which_nothing_has_a_partner_is_answered(byte_level):
    teacher = byte_level.teacher(top_k=4)
    inputs = byte_level.inputs
    nobody = replace(inputs, mask=inputs.mask & (teacher.score(inputs).distribution.ids < 0).all(dim=-1))
    scored = teacher.score(nobody)
    assert bool((scored.distribution.ids == -1).all())
    assert scored.distribution.n_entries == byte_level.n_entries


def test_identity_names_both_vocabularies(byte_level, build, llama):
    first = byte_level.teacher().identity()
    other = build.tokenizer(topics["if"], 300)
    second = aligned("t", other, byte_level.own, len(other), byte_level.local).identity()
    assert first["aligned"] != second["aligned"]
    assert first["sha256"] == second["sha256"]
    assert int(first[UNSHARED]) == byte_level.n_entries - byte_level.teacher().shared.n_shared


def test_control_tokens_are_no_text(byte_level):
    read = TokenBytes.of(byte_level.own, owner="it")
    assert read.special == {0: "<pad>", 1: "<eos>"}
    assert read.joined([0, *byte_level.own("é")["input_ids"], 1]) == "é".encode()


def test_vocabularies_by_bytes_have_a_digest(byte_level, llama):
    assert TokenBytes.of(byte_level.own, owner="it").digest != TokenBytes.of(llama.tokenizer, owner="it").digest
    assert isinstance(llama.vocabulary, Vocabulary)
