"""`Run`: what `fit` returns, and what `load` reads back."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gradfold import _check, _core, _storage
from gradfold import _held_out as _scored
from gradfold import loss as _loss
from gradfold.candidates import Candidates

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from gradfold.index import Folds
    from gradfold.metrics import Calibration

Array = npt.NDArray[Any]

_FORMAT, _FORMAT_VERSION = "gradfold-run", 1
# The arrays of a saved run; those that are None are left out of the file.
_ARRAYS = (
    "coef",
    "intercept",
    "steps",
    "history",
    "held_out_loss",
    "diverged_epoch",
    "diverged_batch",
    "best_coef",
    "best_intercept",
    "classes",
)

# Rows whose raw predictions are held at once while scoring, in bytes of X.
_GATHER_BYTES = 16 << 20


class Run:
    """The models of one `fit`, their held-out losses, and the refitted best one.

    Model m belongs to candidate m // n_splits and split m % n_splits. Where `fit` had no splits (one candidate and
    `folds=None`), the arrays over models and splits have length 0 and only the refit exists.

    Attributes
    ----------
    candidates : Candidates or None
        The grid; None for a single candidate made of `fit`'s own keywords.
    loss, solver, solver_reason : str
        The loss and solver used, and why that solver.
    settings : dict
        `fit`'s other settings, as used.
    classes : ndarray of shape (2,) or None
        The labels, the positive one last; None for a regression.
    coef : ndarray of shape (n_models, n_features)
        In X's dtype and on X's own scale, also with `standardize=True`.
    intercept : ndarray of shape (n_models,)
    steps : ndarray of int64, shape (n_models,)
        The updates that each model has made.
    history : ndarray of float64, shape (n_epochs_done, n_candidates, n_splits)
        The held-out loss after each epoch that all models completed.
    held_out_loss : ndarray of float64, shape (n_candidates, n_splits)
        The last of `history`; NaN for a model that diverged, or that scores no row, and where no epoch was completed.
    diverged : ndarray of bool, shape (n_models,)
        Whether a model met a value that is not finite. It keeps its last finite weights.
    diverged_epoch, diverged_batch : ndarray of int64, shape (n_models,)
        Where it did, counted from 0; -1 where it did not.
    best_coef : ndarray of shape (n_features,) or None
        The best candidate refitted on every row that some split trains or scores; None without a refit.
    best_intercept : float or None
    best_steps : int
        The updates of the refit.
    best_diverged : bool
        Whether the refit diverged.
    interrupted : bool
        Whether Ctrl-C or `max_seconds` ended the fit early.
    stop_reason : str
        "done", "interrupted" or "max_seconds".
    """

    def __init__(
        self,
        *,
        candidates: Candidates | None,
        params: list[dict[str, Any]],
        loss: str,
        solver: str,
        solver_reason: str,
        settings: Mapping[str, Any],
        classes: Array | None,
        coef: Array,
        intercept: Array,
        steps: Array,
        history: Array,
        held_out_loss: Array,
        diverged_epoch: Array,
        diverged_batch: Array,
        best_coef: Array | None,
        best_intercept: float | None,
        best_steps: int,
        best_diverged: bool,
        stop_reason: str,
        version: str,
        folds_digest: str | None = None,
        folds: Folds | None = None,
        data: tuple[Array, Array, Array | None] | None = None,
    ) -> None:
        self.candidates = candidates
        self.loss = loss
        self.solver = solver
        self.solver_reason = solver_reason
        self.settings = dict(settings)
        self.classes = classes
        self.coef = coef
        self.intercept = intercept
        self.steps = steps
        self.history = history
        self.held_out_loss = held_out_loss
        self.diverged_epoch = diverged_epoch
        self.diverged_batch = diverged_batch
        self.best_coef = best_coef
        self.best_intercept = best_intercept
        self.best_steps = best_steps
        self.best_diverged = best_diverged
        self.stop_reason = stop_reason
        self.version = version
        self._params = params
        self._folds_digest = folds_digest
        self._folds = folds
        self._data = data

    # -- what was fitted ----------------------------------------------------------------------------------------------

    @property
    def n_candidates(self) -> int:
        """The number of candidates, at least 1."""
        return len(self._params)

    @property
    def n_splits(self) -> int:
        """The number of splits; 0 if only a refit was asked for."""
        return int(self.held_out_loss.shape[1])

    @property
    def n_features(self) -> int:
        """The number of features of X."""
        return int(self.coef.shape[1])

    @property
    def diverged(self) -> Array:
        """Whether each model diverged, bool of shape (n_models,)."""
        return np.asarray(self.diverged_epoch >= 0)

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C or `max_seconds` ended the fit early."""
        return self.stop_reason != "done"

    @property
    def params(self) -> list[dict[str, Any]]:
        """Each candidate's l1, l2, learning_rate and schedule, those from `fit`'s keywords included."""
        return [dict(row) for row in self._params]

    @property
    def mean_held_out_loss(self) -> Array:
        """The unweighted mean of `held_out_loss` over the splits, shape (n_candidates,); NaN if one of them is."""
        if self.n_splits == 0:
            return np.full(self.n_candidates, np.nan)
        return np.asarray(self.held_out_loss.mean(axis=1))

    @property
    def ranked(self) -> bool:
        """Whether the mean held-out loss of some candidate is a number, so that there is a best one."""
        return not np.isnan(self.mean_held_out_loss).all()

    @property
    def best_candidate(self) -> int:
        """The candidate of the lowest mean held-out loss; NaN comes last, ties go to the lower index.

        So it is 0 where none could be `ranked`.
        """
        mean = self.mean_held_out_loss
        return int(np.argmin(np.where(np.isnan(mean), np.inf, mean)))

    @property
    def best_params(self) -> dict[str, Any]:
        """The parameters of the best candidate: those the grid sets, or, without a grid, all of them.

        Raises
        ------
        RuntimeError
            There are several candidates, and every one's mean held-out loss is NaN.
        """
        if self.n_candidates > 1 and not self.ranked:
            raise RuntimeError("no candidate is best: every mean held-out loss is NaN (`held_out_loss`, `diverged`)")
        best = self.best_candidate
        return dict(self._params[best]) if self.candidates is None else dict(self.candidates[best])

    @property
    def folds_digest(self) -> str | None:
        """SHA-256 of the splits, to tell whether two runs used the same ones; None without splits."""
        if self._folds_digest is None and self._folds is not None:
            self._folds_digest = self._folds.digest()
        return self._folds_digest

    # -- prediction with the refitted model ---------------------------------------------------------------------------

    def predict_raw(self, X: npt.ArrayLike, *, n_threads: int | None = None) -> Array:
        """The refitted model's raw prediction, X @ best_coef + best_intercept, shape (n_rows,).

        X is checked as in `fit`: its features are counted, its values must be finite. A float32 X is copied, with a
        warning, for a float64 model; for a float64 X the weights of a float32 model are widened, which is exact.

        Raises
        ------
        RuntimeError
            There is no refitted model.
        ValueError
            Another number of features, or a value that is not finite.
        TypeError
            As in `fit`.
        """
        return self._predict_raw(X, n_threads)

    def _predict_raw(self, X: npt.ArrayLike, n_threads: int | None) -> Array:
        """`predict_raw`, called by a public method: a warning then points at that method's caller."""
        if self.best_coef is None or self.best_intercept is None:
            why = "the fit was interrupted" if self.interrupted else "refit=False, or no candidate could be ranked"
            raise RuntimeError(
                f"this run holds no refitted model ({why}); `coef` and `intercept` hold the models of the splits"
            )
        data, copied = _check.data_matrix("X", X, None)
        if data.shape[1] != self.n_features:
            raise ValueError(f"X: got {data.shape[1]} features, wanted {self.n_features} as in fit")
        if data.dtype == np.float32 and self.best_coef.dtype == np.float64:
            data, copied = data.astype(np.float64), f"X (dtype float32) to float64, {2 * data.nbytes / 1e6:.3g} MB"
        if copied:
            warnings.warn(f"predict copied {copied}", UserWarning, stacklevel=3)
        threads = _check.threads(n_threads)
        _check.finite("X", data, threads)
        weights = self.best_coef.astype(data.dtype)
        return _raw(data, weights[None], np.array([self.best_intercept], data.dtype), threads)[:, 0]

    def predict(self, X: npt.ArrayLike, *, n_threads: int | None = None) -> Array:
        """The label of each row, or, for a regression, the prediction itself; shape (n_rows,)."""
        raw = self._predict_raw(X, n_threads)
        if self.loss != "log_loss":
            return raw
        assert self.classes is not None
        return np.asarray(self.classes[(raw > 0).astype(np.intp)])

    def predict_proba(self, X: npt.ArrayLike, *, n_threads: int | None = None) -> Array:
        """The probability of each class in the order of `classes`, shape (n_rows, 2); for log_loss only.

        Raises
        ------
        RuntimeError
            The run is a regression, or there is no refitted model.
        """
        if self.loss != "log_loss":
            raise RuntimeError(f"predict_proba needs loss='log_loss'; this run used {self.loss!r}")
        raw = self._predict_raw(X, n_threads)
        return np.stack([_loss.expit(-raw), _loss.expit(raw)], axis=1)

    # -- held-out predictions and scores ------------------------------------------------------------------------------

    def held_out_raw_prediction(self, *, models: Iterable[int] | None = None, n_threads: int | None = None) -> Array:
        """Each model's raw prediction of the rows its split scores, computed from the X that `fit` was given.

        Parameters
        ----------
        models : iterable of int, optional
            Which models; default all. The result takes n_models · n_rows numbers of X's dtype, which for many models
            is more than X: ask for a few at a time, or use `scores`, which never holds it.

        Returns
        -------
        ndarray of shape (n_models, n_rows)
            NaN where a model's split does not score a row.

        Raises
        ------
        RuntimeError
            The run was loaded from a file, or has no splits.
        ValueError
            A model out of range.
        TypeError
            `models` is no list of integers.
        """
        X, _, _, folds = self._held_out()
        n_models = len(self.coef)
        if models is None:
            models = range(n_models)
        elif isinstance(models, (str, bytes)) or not _check.iterable(models):
            raise TypeError(f"models: got {_check.describe(models)}, wanted a list of integers")
        chosen = [_check.integer("models", m, 0, n_models - 1) for m in models]
        threads = _check.threads(n_threads)
        out = np.full((len(chosen), len(X)), np.nan, X.dtype)
        by_split: dict[int, list[int]] = {}
        for place, m in enumerate(chosen):
            by_split.setdefault(m % self.n_splits, []).append(place)
        for split, places in by_split.items():
            models_here = [chosen[place] for place in places]
            for rows in _row_chunks(folds.score_indices(split), X):
                raw = _raw(X[rows], self.coef[models_here], self.intercept[models_here], threads)
                for column, place in enumerate(places):
                    out[place, rows] = raw[:, column]
        return out

    def scores(self, scoring: str | None = None, *, n_threads: int | None = None) -> Array:
        """The held-out score of each candidate and split, higher is better; shape (n_candidates, n_splits).

        Parameters
        ----------
        scoring : str, optional
            A name of `gradfold.metrics.SCORINGS`: scikit-learn's names, the names of `metric` for gains, and `neg_` with
            the name for errors. Default: minus `held_out_loss`. Rows count with their `sample_weight`. A named one is
            computed from the held-out predictions of the weights the run holds, in float64, a block at a time.

        Returns
        -------
        ndarray of float64
            NaN for a model that diverged or scores no row of positive weight.

        Raises
        ------
        ValueError
            An unknown name, or one that does not suit the loss.
        RuntimeError
            The run was loaded from a file, or has no splits.
        """
        if scoring is None:
            return np.asarray(-self.held_out_loss)
        return _scored.scores(self, scoring, n_threads=n_threads)

    def metric(self, name: str, *, n_threads: int | None = None, **options: Any) -> Array:
        """A held-out metric of each candidate and split, with its own sign; shape (n_candidates, n_splits).

        Parameters
        ----------
        name : str
            One of `gradfold.metrics.NAMES`, whose formulas stand in ``docs/metrics.md``.
        **options
            `average`, `multi_class`, `beta`, `k` and `threshold`, as for `gradfold.metrics.evaluate`; `threshold` may be
            an array (n_candidates, n_splits), as `calibrate` returns it.

        Returns
        -------
        ndarray of float64
            Two more axes for "confusion_matrix". NaN for a model that diverged or scores no row of positive weight.

        Raises
        ------
        ValueError, TypeError
            As `gradfold.metrics.evaluate`.
        RuntimeError
            The run was loaded from a file, or has no splits.
        """
        return _scored.metric(self, name, n_threads=n_threads, **options)

    def calibrate(
        self, by: str = "accuracy", *, target: float | None = None, beta: float = 1.0, n_threads: int | None = None
    ) -> Calibration:
        """The threshold of each candidate and split that is best on its held-out rows, and what it reaches there.

        The value is optimistic: threshold and value come from the same rows. Judge a threshold on other rows, or on the
        held-out rows of other splits.

        Parameters
        ----------
        by : {"accuracy", "f_beta", "precision_at_recall", "recall_at_precision"}
            What is greatest; the last two among the thresholds that reach the recall, or precision, `target`.
        target, beta, n_threads
            As for `gradfold.metrics.calibrate`.

        Returns
        -------
        Calibration
            `threshold` on the scale of raw predictions, to be used as ``raw_prediction > threshold``, and `value`, both
            (n_candidates, n_splits). NaN for a model that diverged or scores no row of positive weight.

        Raises
        ------
        ValueError, TypeError
            As `gradfold.metrics.calibrate`.
        RuntimeError
            The run is no binary classifier, was loaded from a file, or has no splits.
        """
        return _scored.calibrate(self, by=by, target=target, beta=beta, n_threads=n_threads)

    def _held_out(self) -> tuple[Array, Array, Array | None, Folds]:
        if self._data is None:
            raise RuntimeError(
                "held-out predictions need X, which this run does not hold (it was loaded, or interrupted early)"
            )
        if self._folds is None:
            raise RuntimeError("this run has no splits, so there are no held-out rows; pass folds to fit")
        return (*self._data, self._folds)

    # -- tables, pictures, files --------------------------------------------------------------------------------------

    def to_frame(self) -> pd.DataFrame:
        """One row for each candidate, in the grid's order; needs pandas.

        Columns: the parameters, `mean` and `std` of the held-out loss over the splits (the population's standard
        deviation, as in scikit-learn's `cv_results_`), `rank` (1 is best, ties share the lower rank, NaN comes last),
        `diverged` (how many of the candidate's models did), and `split0`, `split1`, … with each split's held-out loss.
        """
        try:
            import pandas as pd
        except ImportError:
            raise ImportError("to_frame needs pandas: pip install 'gradfold[cli]'") from None
        rows: list[dict[str, Any]] = self._params if self.candidates is None else list(self.candidates)
        columns: dict[str, Any] = {name: [row[name] for row in rows] for name in rows[0]}
        mean = self.mean_held_out_loss
        order = np.where(np.isnan(mean), np.inf, mean)
        columns["mean"] = mean
        columns["std"] = self.held_out_loss.std(axis=1) if self.n_splits else np.full(len(rows), np.nan)
        columns["rank"] = [1 + int((order < value).sum()) for value in order]
        columns["diverged"] = self.diverged.reshape(len(rows), self.n_splits).sum(axis=1)
        for split in range(self.n_splits):
            columns[f"split{split}"] = self.held_out_loss[:, split]
        return pd.DataFrame(columns)

    def plot(self, ax: Axes | None = None) -> Axes:
        """The validation curve: mean held-out loss with a band of one standard deviation; needs matplotlib.

        The horizontal axis is the grid's parameter where it varies a single number, and the candidate's index
        otherwise. Returns the axes it drew on.
        """
        try:
            import matplotlib.pyplot as plt
        except ImportError:
            raise ImportError("plot needs matplotlib: pip install 'gradfold[cli]'") from None
        if self.n_splits == 0:
            raise RuntimeError("this run has no splits, so there is no validation curve")
        if ax is None:
            _, ax = plt.subplots(layout="constrained")
        x, label = self._axis()
        order = np.argsort(x, kind="stable")
        mean, std = self.mean_held_out_loss[order], self.held_out_loss.std(axis=1)[order]
        ax.plot(x[order], mean, marker="o", markersize=3)
        ax.fill_between(x[order], mean - std, mean + std, alpha=0.2, linewidth=0)
        if self.ranked:
            ax.axvline(x[self.best_candidate], linestyle="--", linewidth=1, color="grey")
        if (x > 0).all() and x.max() > 20 * x.min():
            ax.set_xscale("log")
        ax.set_xlabel(label)
        ax.set_ylabel(f"held-out {self.loss}, mean ± std of {self.n_splits} splits")
        return ax

    def _axis(self) -> tuple[Array, str]:
        if self.candidates is not None:
            varying = [n for n in self.candidates.names if len(set(self.candidates.column(n))) > 1]
            if len(varying) == 1 and varying[0] != "schedule":
                return np.array(self.candidates.column(varying[0]), np.float64), varying[0]
        return np.arange(self.n_candidates, dtype=np.float64), "candidate"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the run to `path`, a `.npz` without pickles; `load` reads it back bit for bit.

        The member `meta.json` holds the settings and where the run comes from: gradfold's version, seed, the digest
        of the splits, a SHA-256 of every array and one of all weights. X, y and the splits themselves are not saved.
        The file is replaced in one step: a full disk or an interrupt leaves the old one as it was.

        Raises
        ------
        OSError
            The file cannot be written.
        ValueError
            `path` is there and no regular file, or the labels are objects that no plain array holds.
        TypeError
            `path` is no path.
        """
        target = _check.path("path", path)
        arrays: dict[str, Array] = {}
        for name in _ARRAYS:
            value = getattr(self, name)
            if value is not None:
                array = np.asarray(value, dtype=self.coef.dtype if name == "best_intercept" else None)
                arrays[name] = _text(array) if array.dtype.kind == "O" else array
        meta = {
            "format": _FORMAT,
            "format_version": _FORMAT_VERSION,
            "version": self.version,
            "loss": self.loss,
            "solver": self.solver,
            "solver_reason": self.solver_reason,
            "settings": self.settings,
            "seed": self.settings.get("seed"),
            "candidates": None if self.candidates is None else list(self.candidates),
            "params": self._params,
            "best_steps": self.best_steps,
            "best_diverged": self.best_diverged,
            "stop_reason": self.stop_reason,
            "folds_digest": self.folds_digest,
            "weights_sha256": self.weights_sha256,
        }
        _storage.write(target, arrays, meta)

    @property
    def weights_sha256(self) -> str:
        """SHA-256 over the checksums of coef, intercept and the refit: the same on every CPU level and thread count."""
        best = () if self.best_coef is None else (self.best_coef, np.asarray(self.best_intercept, self.coef.dtype))
        sums = [_storage.checksum(array) for array in (self.coef, self.intercept, *best)]
        return _storage.checksum(np.frombuffer("".join(sums).encode(), np.uint8))

    def __repr__(self) -> str:
        text = f"<gradfold.Run: {self.loss}, {self.solver}, {self.n_candidates} candidates × {self.n_splits} splits"
        if self.n_splits and not self.ranked:
            text += ", every held-out loss NaN" if self.n_candidates == 1 else ", no best: every mean held-out loss NaN"
        elif self.n_splits:
            best = self.best_candidate
            text += f", best {self.best_params} with held-out loss {self.mean_held_out_loss[best]:.6g}"
        if self.diverged.any():
            text += f", {int(self.diverged.sum())} diverged"
        if self.best_diverged:
            text += ", the refit diverged"
        return text + (f", {self.stop_reason}>" if self.interrupted else ">")


def load(path: str | os.PathLike[str]) -> Run:
    """Read a run that `Run.save` wrote.

    Raises
    ------
    ValueError
        The file is no saved run, is damaged (a checksum differs), or comes from a newer format.
    OSError
        The file cannot be opened.
    TypeError
        `path` is no path.
    """
    name = _check.path("path", path)
    arrays, meta = _storage.read(name, _FORMAT, _FORMAT_VERSION)
    try:
        best_intercept = arrays.get("best_intercept")
        models: dict[str, Any] = {name: arrays[name] for name in _ARRAYS[:7]}
        run = Run(
            candidates=None if meta["candidates"] is None else Candidates(meta["candidates"]),
            params=[dict(row) for row in meta["params"]],
            loss=_check.choice("loss", meta["loss"], (*_loss.NAMES, "auto")),
            solver=meta["solver"],
            solver_reason=meta["solver_reason"],
            settings=meta["settings"],
            best_steps=int(meta["best_steps"]),
            best_diverged=bool(meta["best_diverged"]),
            stop_reason=meta["stop_reason"],
            version=meta["version"],
            folds_digest=meta["folds_digest"],
            best_coef=arrays.get("best_coef"),
            best_intercept=None if best_intercept is None else float(best_intercept),
            classes=arrays.get("classes"),
            **models,
        )
        weights = run.weights_sha256
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise ValueError(f"path: {name!r} is not a {_FORMAT} file, or is damaged: {error!r}") from error
    if weights != meta.get("weights_sha256"):
        raise ValueError(f"path: {name!r} is damaged: the checksum of the weights does not match")
    return run


def _raw(X: Array, coef: Array, intercept: Array, n_threads: int) -> Array:
    """X @ coef.T + intercept by the kernel that training uses, shape (n_rows, n_models)."""
    out = np.empty((len(X), len(coef)), X.dtype)
    _core.gradient.raw_prediction(X, np.ascontiguousarray(coef.T), np.ascontiguousarray(intercept), out, n_threads)
    return out


def _row_chunks(rows: Array, X: Array) -> Iterable[Array]:
    step = max(1, _GATHER_BYTES // (X.shape[1] * X.itemsize))
    for a in range(0, len(rows), step):
        yield rows[a : a + step]


def _text(labels: Array) -> Array:
    """Object labels (text from pandas, say) as an array of a plain dtype, so that no pickle is needed."""
    plain = np.array(labels.tolist())
    if plain.dtype.kind == "O" or plain.tolist() != labels.tolist():
        raise ValueError(f"classes: got the labels {labels.tolist()!r}, wanted text or numbers, which a file can hold")
    return plain
