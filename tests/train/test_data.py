"""Rows from every kind of file, the same; and everything that no row may be."""

import csv
import json
import subprocess
import sys

import pyarrow as pa
import pytest
from pyarrow import parquet

from mashbill.errors import CorruptionError, DataError
from mashbill.train.data import ROWS_SHOWN, Row, read_rows
from mashbill.train.recipe import Data
from mashbill.train.sources import read_table

SECOND = 'zweite, ö\n"'
ROWS = [
    {"id": "a", "text": "first", "label": "x", "task": "one", "place": "north", "size": 1.5, "who": "t", "risky": True},
    {
        "id": "b",
        "text": SECOND,
        "label": "y",
        "task": "two",
        "place": "south",
        "size": -2.0,
        "who": None,
        "risky": False,
    },
]
EXPECTED = [
    Row("a", text="first", label="x", task="one", context="north", features=(1.5,), teacher="t", critical=True),
    Row("b", text=SECOND, label="y", task="two", context="south", features=(-2.0,)),
]


def section(**values):
    known = {"train": "unused", "format": "classification", "task_column": "task", "context_columns": ["place"]}
    return Data(**{**known, "feature_columns": ["size"], "teacher_column": "who", "critical_column": "risky", **values})


def plain(**values):
    return Data(**{"train": "unused", "format": "text", **values})


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_csv(path, rows, delimiter=","):
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)


def write_json(path, rows):
    path.write_text(json.dumps(rows), encoding="utf-8")


def write_parquet(path, rows):
    parquet.write_table(pa.Table.from_pylist(rows), path, write_page_checksum=True)


def write_saved(path, rows, **features):
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_list(rows)
    for name, feature in features.items():
        data = data.cast_column(name, feature)
    data.save_to_disk(str(path))


WRITERS = {
    "r.jsonl": write_jsonl,
    "r.ndjson": write_jsonl,
    "r.json": write_json,
    "r.csv": write_csv,
    "r.tsv": lambda path, rows: write_csv(path, rows, "\t"),
    "r.parquet": write_parquet,
    "saved": write_saved,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_file_gives_the_same_rows(tmp_path, name):
    WRITERS[name](tmp_path / name, ROWS)
    assert read_rows(tmp_path / name, section()) == EXPECTED


@pytest.mark.parametrize("name", WRITERS)
def test_a_limit_reads_the_first_rows_and_says_so(tmp_path, name):
    WRITERS[name](tmp_path / name, [{"text": f"row {i}"} for i in range(5)])
    table = read_table(tmp_path / name, limit=3)
    assert [record["text"] for record in table.records] == ["row 0", "row 1", "row 2"]
    assert not table.is_complete
    assert read_table(tmp_path / name, limit=5).is_complete


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_without_rows_is_refused(tmp_path, name):
    if name.startswith("saved"):
        pytest.importorskip("datasets").Dataset.from_dict({"text": []}).save_to_disk(str(tmp_path / name))
    elif name == "r.parquet":
        parquet.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / name)
    else:
        (tmp_path / name).write_text({"r.json": "[]", "r.csv": "text\n"}.get(name, ""), encoding="utf-8")
    with pytest.raises(DataError, match="holds no rows"):
        read_table(tmp_path / name)


def test_what_rows_do_not_say_is_absent(tmp_path):
    write_jsonl(tmp_path / "r.jsonl", [{"text": "a"}, {"text": "b"}])
    assert read_rows(tmp_path / "r.jsonl", plain()) == [Row("r:1", text="a"), Row("r:2", text="b")]


def test_blank_lines_and_a_byte_order_mark_are_no_rows(tmp_path):
    (tmp_path / "r.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "a"}\n\n  \n{"text": "b"}')
    assert [row.text for row in read_rows(tmp_path / "r.jsonl", plain())] == ["a", "b"]
    assert read_table(tmp_path / "r.jsonl").place(1).endswith("r.jsonl:4")


def test_whole_numbers_are_names(tmp_path):
    write_jsonl(tmp_path / "r.jsonl", [{"id": 7, "text": "a", "label": 3}])
    row = read_rows(tmp_path / "r.jsonl", plain(format="classification"))[0]
    assert (row.id, row.label) == ("7", "3")


def test_several_context_columns_are_joined(tmp_path):
    write_jsonl(tmp_path / "r.jsonl", [{"text": "a", "p": "north", "q": 2}])
    assert read_rows(tmp_path / "r.jsonl", plain(context_columns=["p", "q"]))[0].context == "north/2"


def test_critical_labels_mark_rows_beside_the_column(tmp_path):
    write_jsonl(tmp_path / "r.jsonl", ROWS)
    rows = read_rows(tmp_path / "r.jsonl", section(), critical_labels=["y"])
    assert [row.critical for row in rows] == [True, True]


def test_names_of_class_labels_are_read_from_saved_datasets_and_their_parquet(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = [{"text": "a", "label": 1}, {"text": "b", "label": 0}, {"text": "c", "label": -1}]
    write_saved(tmp_path / "saved", rows, label=datasets.ClassLabel(names=["no", "yes"]))
    datasets.load_from_disk(str(tmp_path / "saved")).to_parquet(str(tmp_path / "r.parquet"))
    for name in ("saved", "r.parquet"):
        labels = [row.label for row in read_rows(tmp_path / name, plain(format="classification"))]
        assert labels == ["yes", "no", None]


def test_a_dataset_of_several_splits_names_them(tmp_path):
    datasets = pytest.importorskip("datasets")
    one = datasets.Dataset.from_list([{"text": "a"}])
    datasets.DatasetDict({"train": one, "test": one}).save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(DataError, match="it holds the splits test, train"):
        read_table(tmp_path / "saved")
    assert len(read_table(tmp_path / "saved" / "train").records) == 1


def test_a_dataset_cannot_point_out_of_its_folder(tmp_path):
    write_saved(tmp_path / "saved", [{"text": "a"}])
    state = json.loads((tmp_path / "saved" / "state.json").read_text())
    state["_data_files"] = [{"filename": "../other.arrow"}]
    (tmp_path / "saved" / "state.json").write_text(json.dumps(state))
    with pytest.raises(DataError, match="outside the folder"):
        read_table(tmp_path / "saved")


MESSAGES = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]


def test_messages_and_completions(tmp_path):
    write_jsonl(tmp_path / "m.jsonl", [{"messages": MESSAGES}])
    write_jsonl(tmp_path / "p.jsonl", [{"prompt": "1+1=", "completion": "2"}])
    assert read_rows(tmp_path / "m.jsonl", plain(format="messages")) == [Row("m:1", messages=tuple(MESSAGES))]
    expected = [Row("p:1", prompt="1+1=", completion="2")]
    assert read_rows(tmp_path / "p.jsonl", plain(format="prompt_completion")) == expected


@pytest.mark.parametrize(
    ("row", "data", "message"),
    [
        ({"text": 5}, plain(), r"r\.jsonl:1: column `text` must be text, not a number \(`5`\)"),
        ({"text": None}, plain(), "column `text` must be text, not nothing"),
        ({"text": ["a"]}, plain(), "must be text, not a list"),
        ({"text": " \n"}, plain(), "column `text` is empty"),
        ({"text": "a", "id": 1.5}, plain(), "column `id` must be text, not a number"),
        ({"text": "a", "id": True}, plain(), "column `id` must be text, not true or false"),
        ({"text": "a", "id": " "}, plain(), "column `id` is blank"),
        ({"text": "a", "f": "1"}, plain(feature_columns=["f"]), "column `f` must be a number, not text"),
        ({"text": "a", "f": True}, plain(feature_columns=["f"]), "column `f` must be a number, not true or false"),
        ({"text": "a", "f": None}, plain(feature_columns=["f"]), "column `f` must be a number, not nothing"),
        ({"text": "a", "f": 10**400}, plain(feature_columns=["f"]), "must be a finite number"),
        ({"text": "a", "t": None}, plain(task_column="t"), "column `t` is empty"),
        ({"text": "a", "t": {}}, plain(task_column="t"), "column `t` must be text, not an object"),
        ({"text": "a", "c": "yes"}, plain(critical_column="c"), "column `c` must be true or false, not text"),
        ({"text": "a", "c": 2}, plain(critical_column="c"), "column `c` must be true or false, not a number"),
        ({"prompt": "a", "completion": ""}, plain(format="prompt_completion"), "column `completion` is empty"),
        ({"messages": "a"}, plain(format="messages"), "`messages` must be a list of messages, not text"),
        ({"messages": []}, plain(format="messages"), "must be a list of messages"),
        ({"messages": ["a"]}, plain(format="messages"), "message 0 must be an object"),
        (
            {"messages": [{"role": "user"}]},
            plain(format="messages"),
            "`content` of message 0 must be text, not nothing",
        ),
        ({"messages": MESSAGES[:1]}, plain(format="messages"), "no message of the role `assistant`"),
    ],
)
def test_a_row_that_cannot_be_used_names_its_line_and_column(tmp_path, row, data, message):
    write_jsonl(tmp_path / "r.jsonl", [row])
    with pytest.raises(DataError, match=message):
        read_rows(tmp_path / "r.jsonl", data)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e999"])
def test_features_of_csv_must_be_finite(tmp_path, value):
    (tmp_path / "r.csv").write_text(f"text,f\na,{value}\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"r\.csv:2: column `f` must be a finite number"):
        read_rows(tmp_path / "r.csv", plain(feature_columns=["f"]))


def test_nan_in_parquet_is_refused(tmp_path):
    write_parquet(tmp_path / "r.parquet", [{"text": "a", "f": 1.0}, {"text": "b", "f": float("nan")}])
    with pytest.raises(DataError, match=r"r\.parquet row 2: column `f` must be a finite number"):
        read_rows(tmp_path / "r.parquet", plain(feature_columns=["f"]))


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b'{"text": "a"}\n{"text": }\n', r"r\.jsonl:2: column 10: not valid JSON"),
        (b'{"text": "a"}\n{"text": "\xff"}\n', r"r\.jsonl:2: byte 24 \(0xff\) is not UTF-8"),
        (b'\xef\xbb\xbf{"text": "\xff"}', r"byte 13 \(0xff\)"),
        (b'"text"\n', r"r\.jsonl:1: a line must be one JSON object"),
        (b'{"f": Infinity}\n', "Infinity is no number"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"f": ' + b"1" * 5000 + b"}", "not valid JSON"),
        (b'{"text": "\\udc00"}', "character 0 is half of a surrogate pair"),
    ],
)
def test_malformed_json_lines_name_line_and_byte(tmp_path, raw, message):
    (tmp_path / "r.jsonl").write_bytes(raw)
    with pytest.raises(DataError, match=message):
        read_rows(tmp_path / "r.jsonl", plain())


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ("text,text\na,b\n", "two columns are called `text`"),
        ("text,f\na\n", r"r\.csv:2.*|1 fields, but the header names 2"),
        ('text,f\n"a\nb",1\nc,1,2\n', "3 fields, but the header names 2"),
    ],
)
def test_malformed_csv(tmp_path, raw, message):
    (tmp_path / "r.csv").write_text(raw, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read_table(tmp_path / "r.csv")


def test_other_files_that_are_not_what_they_are_called(tmp_path):
    for name, message in {
        "r.parquet": "is not a Parquet file",
        "r.json": "not valid JSON",
        "r.xlsx": "cannot tell",
    }.items():
        (tmp_path / name).write_bytes(b"PK\x03\x04 no such thing")
        with pytest.raises(DataError, match=message):
            read_table(tmp_path / name)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="is a folder, but not one saved dataset"):
        read_table(tmp_path / "empty")
    with pytest.raises(DataError, match=r"in that folder: .*r\.json"):
        read_table(tmp_path / "absent.jsonl")


def test_a_flipped_bit_in_a_parquet_page_is_found(tmp_path):
    path = tmp_path / "r.parquet"
    parquet.write_table(
        pa.table({"text": [f"row {i} of many" for i in range(2000)]}), path,
        write_page_checksum=True, compression="none", use_dictionary=False,
    )  # fmt: skip
    raw = bytearray(path.read_bytes())
    raw[raw.index(b"row 1000")] ^= 1
    path.write_bytes(raw)
    with pytest.raises(CorruptionError, match="a page is damaged"):
        read_table(path)


def test_ids_stand_once(tmp_path):
    write_jsonl(tmp_path / "r.jsonl", [{"id": "x", "text": "a"}, {"text": "b"}, {"id": "x", "text": "c"}])
    with pytest.raises(DataError, match=r"r\.jsonl:3: the id `x` is already that of .*r\.jsonl:1"):
        read_rows(tmp_path / "r.jsonl", plain())


def test_many_bad_rows_are_counted_after_the_first(tmp_path):
    write_jsonl(tmp_path / "r.jsonl", [{"text": ""} for _ in range(100)])
    with pytest.raises(DataError) as caught:
        read_rows(tmp_path / "r.jsonl", plain())
    assert len(caught.value.problems) == ROWS_SHOWN + 1
    assert caught.value.problems[-1].what == f"{100 - ROWS_SHOWN} more rows cannot be used"


def test_a_missing_column_is_answered_with_the_nearest(tmp_path):
    write_jsonl(tmp_path / "r.jsonl", [{"txet": "a"}])
    with pytest.raises(DataError, match=r"has no column `text` — did you mean `txet`\? \(data\.text_column\)"):
        read_rows(tmp_path / "r.jsonl", plain())


def test_torch_is_not_needed_to_read_rows(tmp_path):
    write_parquet(tmp_path / "r.parquet", ROWS)
    code = (
        "import sys; from pathlib import Path; from mashbill.train.sources import read_table\n"
        "read_table(Path(sys.argv[1])); sys.exit('torch' in sys.modules or 'datasets' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "r.parquet")], check=False)
    assert done.returncode == 0
