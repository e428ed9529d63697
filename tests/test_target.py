"""Reading y: labels of any type as codes, and the losses they ask for."""

from __future__ import annotations

import numpy as np
import pytest

from gradfold import _target

F64 = np.dtype(np.float64)


def read(y, loss="auto", dtype=F64, check_finite=True):
    return _target.read(y, loss, len(y), dtype, check_finite, 1)


@pytest.mark.parametrize(
    ("labels", "y_dtype"),
    [
        (["apple", "fig", "pear", "plum"], None),
        (["apple", "fig", "pear", "plum"], object),
        ([b"a", b"b", b"c"], None),
        ([-3, 0, 7, 100], np.int64),
        ([1, 2, 250], np.uint8),
        ([1, 2, 2**63], np.uint64),
        ([-1, 0, 1], np.int8),
        ([0, 1, 2], ">i4"),
        ([1.5, 2, "x"], "U4"),
    ],
)
@pytest.mark.parametrize("loss", ["auto", "multinomial"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_labels_become_codes_in_ascending_order(labels, y_dtype, loss, dtype):
    classes = np.array(labels, y_dtype)
    codes = np.random.default_rng(0).integers(0, len(labels), 700)
    codes[: len(labels)] = np.arange(len(labels))[::-1]
    target = read(classes[codes], loss, np.dtype(dtype))
    assert target.loss == "multinomial" and target.n_outputs == len(labels)
    assert target.y.dtype == dtype and target.classes.tolist() == sorted(classes.tolist())
    np.testing.assert_array_equal(target.classes[target.y.astype(int)], classes[codes])


def test_more_rows_than_a_block(monkeypatch):
    monkeypatch.setattr(_target, "_STEP", 100)
    monkeypatch.setattr(_target, "_FIRST", 50)
    y = np.arange(1000) // 100  # a class in each block
    target = read(y)
    assert target.classes.tolist() == list(range(10))
    np.testing.assert_array_equal(target.y, y)
    target = read(y.astype(str).astype(object))
    np.testing.assert_array_equal(target.classes[target.y.astype(int)], y.astype(str))


@pytest.mark.parametrize("labels", [[3, -8, 5], ["b", "a", "c"], [b"b", b"a", b"c"], [0.5, 0.25, 7.5], [1, 0, 2], [True, False]])
@pytest.mark.parametrize("first", [1, 2, 3])
def test_labels_that_come_late(labels, first, monkeypatch):
    """The first block holds `first` of them, the last row one more."""
    monkeypatch.setattr(_target, "_FIRST", 40)
    y = np.array(labels)[np.arange(3000) % min(first, len(labels))]
    y[-1] = labels[-1]
    y[1500] = labels[1]
    target = read(y, "multinomial")
    assert target.classes.tolist() == sorted(labels)
    np.testing.assert_array_equal(target.classes[target.y.astype(int)], y)


@pytest.mark.parametrize("labels", [["no", "yes"], [3, 8], [0.0, 1.0], [False, True], [1.5, 2.5]])
def test_multinomial_by_name_takes_two_labels(labels):
    y = np.array(labels)[np.random.default_rng(1).integers(0, 2, 50)]
    target = read(y, "multinomial")
    assert (target.loss, target.n_outputs, target.classes.tolist()) == ("multinomial", 2, labels)
    np.testing.assert_array_equal(target.y, y == labels[1])


def test_two_labels_are_log_loss_unless_asked():
    target = read(np.array([4, 9, 4]))
    assert (target.loss, target.n_outputs, target.classes.tolist()) == ("log_loss", 1, [4, 9])


def test_floats_are_classes_only_by_name():
    y = np.array([0.0, 1.0, 2.0, 1.0])
    assert read(y).loss == "squared_error" and read(y).n_outputs == 1
    assert read(y, "multinomial").classes.tolist() == [0, 1, 2]


@pytest.mark.parametrize("loss", ["hinge", "squared_hinge", "modified_huber", "perceptron", "log_loss"])
def test_losses_of_two_classes_read_alike(loss):
    text = read(np.array(["b", "a", "b"]), loss)
    assert (text.loss, text.classes.tolist(), text.y.tolist()) == (loss, ["a", "b"], [1, 0, 1])
    signs = read(np.array([-1, 1, -1]), loss)
    assert (signs.loss, signs.classes.tolist(), signs.y.tolist()) == (loss, [-1, 1], [-1, 1, -1])
    with pytest.raises(ValueError, match=f"got 2.0 at row 1, wanted labels in .* for loss='{loss}'"):
        read(np.array([1, 2]), loss)
    with pytest.raises(ValueError, match=f"more than two labels .*wanted two for loss='{loss}'"):
        read(np.array(["a", "b", "c"]), loss)


@pytest.mark.parametrize("loss", ["squared_error", "huber", "epsilon_insensitive", "squared_epsilon_insensitive"])
def test_regressions_refuse_text(loss):
    assert read(np.array([1, 5, 3]), loss).classes is None
    with pytest.raises(TypeError, match="y: got dtype"):
        read(np.array(["a", "b"]), loss)
    with pytest.raises(ValueError, match="y: got nan at row 1"):
        read(np.array([1, np.nan]), loss)


@pytest.mark.parametrize(
    ("y", "loss", "message"),
    [
        (np.arange(1001), "auto", "more than 1,000 labels .*for regression pass loss='squared_error'"),
        (np.arange(1001.0), "multinomial", "more than 1,000 labels"),
        ([f"{i}" for i in range(1001)], "auto", "more than 1,000 labels"),
        (np.array([f"{i}" for i in range(2000)], object), "auto", "more than 1,000 labels"),
        ([7, 7, 7], "multinomial", "the one label 7"),
        ([0.0, np.nan, 1.0], "multinomial", "y: got nan at row 1"),
        ([0.0, 1.0, np.inf], "multinomial", "y: got inf at row 2"),
        (np.array(["a", 1, 2.5], object), "auto", "mixed types"),
        (np.array(["a", None, "b"], object), "multinomial", "the label None"),
        (np.array(["a", "b", "a\0"], object), "auto", r"NumPy keeps 'a\\x00' as 'a'"),
    ],
)
def test_labels_that_do_not_serve(y, loss, message):
    with pytest.raises(ValueError, match=message):
        read(y, loss)


def test_a_thousand_labels_serve():
    target = read(np.arange(1000)[::-1].copy())
    assert target.n_outputs == 1000 and target.y.tolist() == list(range(999, -1, -1))
