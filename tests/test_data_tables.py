"""Tables: columns of numbers and of texts, what is predicted, and every file that is no such table."""

import re

import numpy as np
import pytest

from dnas.data import SPLITS, describe, load

ROWS = "".join(f'{i},{i / 2 - 3},{"red" if i % 2 else "blue, dark"},{("yes", "no", "maybe")[i % 3]}\n'.replace(
    "blue, dark", '"blue, dark"') for i in range(60))


def write(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def table(tmp_path, text, **options):
    return load(write(tmp_path / "a.csv", text), **options)


def test_texts_are_classes_and_features(tmp_path):
    data = table(tmp_path, "n, half ,colour,answer\n" + ROWS, target="answer")
    assert (data.task, data.class_names, data.image, data.name) == ("classification", ("maybe", "no", "yes"), (4,), "a")
    assert np.array_equal(data.targets, np.array([2, 1, 0] * 20))
    expected = [[i, i / 2 - 3, i % 2 == 0, i % 2 == 1] for i in range(60)]  # blue comes before red
    assert np.array_equal(data.inputs, np.array(expected, np.float32))
    assert np.array_equal(np.sort(np.concatenate(list(data.splits.values()))), np.arange(60))
    counts = np.bincount(data.targets[data.splits["test"]])
    assert counts.tolist() == [4, 4, 4]
    assert "a: 60 rows of 4 numbers, 3 classes, standardised" in describe(data)
    assert "rows of maybe 20, no 20, yes 20" in describe(data)


def numbers(cell, rows=60, name="y"):
    return f"x,{name}\n" + "".join(f"{i},{cell(i)}\n" for i in range(rows))


@pytest.mark.parametrize("cell, options, task, names", [
    (lambda i: i % 3 + 4, {}, "classification", ("4", "5", "6")), (lambda i: i, {}, "regression", ()),
    (lambda i: i / 7, {}, "regression", ()), (lambda i: f"{i % 3}.0", {}, "regression", ()),
    (lambda i: i % 3, {"task": "regression"}, "regression", ()), (lambda i: -(i % 2), {}, "classification", ("-1", "0")),
    (lambda i: (i % 3) / 2, {"task": "classification"}, "classification", ("0", "0.5", "1")),
    (lambda i: i % 8 * 10**6, {"task": "classification"}, "classification", tuple(str(i * 10**6) for i in range(8))),
    (lambda i: ["no", "yes", "NA"][i % 3], {}, "classification", ("NA", "no", "yes"))])
def test_what_a_column_is(tmp_path, cell, options, task, names):
    data = table(tmp_path, numbers(cell), **options)
    assert (data.task, data.class_names) == (task, names)
    if task == "regression":
        np.testing.assert_allclose(data.targets, [float(cell(i)) for i in range(60)], rtol=1e-6)
    else:
        shown = [str(cell(i)) for i in range(60)]
        assert all(float(data.class_names[k]) == float(text) if names[0] != "NA" else data.class_names[k] == text
                   for k, text in zip(data.targets, shown))


@pytest.mark.parametrize("name", ["y", "Target", "label", "CLASS"])
def test_the_column_that_is_predicted_by_its_name(tmp_path, name):
    assert table(tmp_path, numbers(lambda i: i / 2, name=name)).targets[5] == 2.5


def test_forms_of_a_file(tmp_path):
    plain = numbers(lambda i: i / 2)
    expected = table(tmp_path, plain)
    quoted = re.sub(r"^(.*),(.*)$", r'"\1" , \2 ', plain, flags=re.MULTILINE).replace('" ,', '",')
    for text in (quoted, plain.replace("\n", "\r\n"), b"\xef\xbb\xbf" + plain.encode(), plain.replace("\n", "\n\n"),
                 plain.strip()):
        data = table(tmp_path, text)
        assert np.array_equal(data.inputs, expected.inputs) and np.array_equal(data.targets, expected.targets)
    lines = table(tmp_path, 'x,y\n' + '"a\nb",1.5\n"say ""c""",2.5\n' * 30)
    assert lines.image == (2,)


def test_standardise_and_limit(tmp_path):
    text = numbers(lambda i: i / 2)
    plain = table(tmp_path, text, standardise=False, limit=20)
    assert (plain.mean, plain.std) == (0, 1) and len(plain.inputs) == 20 + 12
    assert all(len(plain.splits[part]) for part in SPLITS)
    scaled = table(tmp_path, text)
    np.testing.assert_allclose(scaled.mean[0], scaled.inputs[scaled.splits["train"]].mean(), rtol=1e-6)


GOOD = "x,y\n" + "1,2.5\n" * 3


@pytest.mark.parametrize("text, options, message", [
    ("", {}, ": it is empty"), ("x,y\n", {}, ": it has no rows below its header"),
    ("x\n1\n", {}, ": it has one column, 'x'"),
    ("x;y\n1;2\n", {}, "one column, 'x;y'; columns are separated by commas"),
    ("x,y,x\n1,2,3\n", {}, ": two columns are called 'x'"), ("x,,y\n1,2,3\n", {}, ": column 2 has no name"),
    ("a,b\n1,2\n", {}, ": --target must name the column to predict; there are a, b"),
    ("ages,b\n1,2\n", {"target": "age"}, ": no column 'age' to predict; did you mean 'ages'"),
    (GOOD + "4\n", {}, ", line 5: 1 fields; the header names 2"), (GOOD + "4,5,6\n", {}, ", line 5: 3 fields"),
    (GOOD + ",5\n4,\n", {}, ", line 5: column 'x' is '', a missing value; fill it|, line 6: column 'y' is ''"),
    (GOOD + "NaN,5\n?,5\n", {}, ", line 5: column 'x' is 'NaN', a missing value, and 1 more of the column"),
    (GOOD + "4,n/a\n", {}, ", line 5: column 'y' is 'n/a', a missing value"),
    (GOOD + "-Infinity,5\n", {}, ", line 5: column 'x' is '-Infinity', an infinite number"),
    ("x,y\na,1.5\n,2.5\n", {}, ", line 3: column 'x' is '', a missing value"),
    ("x,y\n,1.5\n,2.5\n", {}, ", line 2: column 'x' is '', a missing value"),
    (GOOD + "1e39,4\n", {}, ", line 5: column 'x' is 1e39, which float32 cannot hold"),
    (GOOD + "4,1e39\n", {}, ": 1 NaN or infinite targets"), (GOOD, {}, ": every target is 2.5"),
    ("x,y\n1,a\n2,a\n", {}, ": column 'y' is 'a' in every row"),
    ("x,y\n1,a\n2,b\n", {"task": "regression"}, ", line 2: column 'y' is 'a', which is not a number"),
    (GOOD, {"task": "multilabel"}, ": task multilabel needs several targets per row"),
    (GOOD, {"task": "clasification"}, "no task 'clasification'"),
    ('x,y\n"1"2,3\n', {}, ", line 2: .*double quotes"), ('x,y\n1,"3\n', {}, ", line 2: .*double quotes"),
    (b"x,y\n1,2\n\xff,3\n", {}, ", line 3: it is not UTF-8"),
    ("x,y\n1,a\n2,\"b\x01\"\n", {}, r": class 'b\\x01' has a name that cannot be printed"),
    ("name,y\n" + "".join(f"n{i},{i / 2}\n" for i in range(300)), {}, ": column 'name' has 300 different texts, such as")])
def test_bad_tables(tmp_path, text, options, message):
    with pytest.raises(ValueError) as error:
        table(tmp_path, text, **options)
    assert re.search(f"(?:{message})", str(error.value)) and "\n" not in str(error.value), error.value
    if "no task" not in message:
        assert str(error.value).startswith(str(tmp_path / "a.csv"))


@pytest.mark.parametrize("cell", ["1_000", "0x10", "1,5", "١", "1e", "."])
def test_what_python_takes_for_a_number_and_people_do_not(tmp_path, cell):
    data = table(tmp_path, f'x,y\n"{cell}",1.5\n2,2.5\n' * 1 + "3,3.5\n" * 20)
    assert data.image == (3,)  # each text of its own is a feature


def test_no_file(tmp_path):
    with pytest.raises(ValueError, match="no file, folder or data set .*b.csv"):
        load(str(tmp_path / "b.csv"))
