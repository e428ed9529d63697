"""`Run`: what `fit` returns, and what `load` reads back."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gradfold import _check, _choose, _core, _device, _missing, _optimum, _partial, _plots, _storage, diagnostics
from gradfold import _held_out as _scored
from gradfold import loss as _loss
from gradfold._stopping import REASONS
from gradfold.candidates import Candidates

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from gradfold._problem import Validation
    from gradfold.diagnostics import Report
    from gradfold.index import Folds
    from gradfold.metrics import Calibration

Array = npt.NDArray[Any]

_FORMAT, _FORMAT_VERSION = "gradfold-run", 2
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
    # since version 2
    "best_epoch",
    "epochs_trained",
    "stop_codes",
    "survived",
    "learning_rate",
    "train_history",
    "split_scores",
    "fill",
    "class_weight",
)
_REQUIRED = 7  # so many of them are in every file
_STATE = "state_"  # the optimiser's arrays, one member each
_ARRIVALS, _REFIT_ARRIVAL = "arrival_", "refit_arrival_"  # what became of the models on their way to the optimum

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
        `fit`'s other settings, as used; `epochs` and `batch_size` are None for solvers of the optimum.
    metadata : dict
        Yours: whatever JSON holds. It is saved and loaded.
    classes : ndarray of shape (n_classes,) or None
        The labels in ascending order, of two the positive one last; None for a regression.
    coef : ndarray of shape (n_models, n_features)
        In X's dtype and on X's own scale, also with `standardize=True`. For loss="multinomial" (n_models, n_classes,
        n_features), and the other arrays of weights and raw predictions have an axis of the classes too.
    intercept : ndarray of shape (n_models,) or (n_models, n_classes)
    steps : ndarray of int64, shape (n_models,)
        The updates that each model has made.
    history : ndarray of float64, shape (n_epochs_done, n_candidates, n_splits)
        The held-out loss after each epoch that all models completed which still trained; NaN after a model has left.
    train_history : ndarray of float64 of that shape, or None
        The running training loss of each epoch, without penalties, where `fit` tracked it.
    held_out_loss : ndarray of float64, shape (n_candidates, n_splits)
        That of the weights that are kept: after the last epoch, or, under early stopping, the best. NaN for a model that
        diverged, or that scores no row, and where no epoch was completed.
    epochs_trained : ndarray of int64, shape (n_candidates, n_splits)
        Whole epochs that each model trained.
    best_epoch : ndarray of int64, shape (n_candidates, n_splits)
        Under early stopping the epoch, counted from 1, after which the monitored loss was lowest; else `epochs_trained`.
    survived : ndarray of bool, shape (n_candidates,)
        Which candidates halving left to the end. The best one is among them.
    learning_rate : ndarray of float64, shape (n_candidates, n_splits)
        What "auto" and `batch_scaling` made of it; NaN in files of older versions.
    scoring : str or None
        The score that ranks the candidates; None is the held-out loss.
    split_scores : ndarray of float64, shape (n_candidates, n_splits), or None
        That score, where one was asked for.
    choose : str
        "best" or "one_se".
    stop_codes : ndarray of uint8, shape (n_candidates, n_splits)
        `stop_reasons` as numbers, in the order of its list.
    diverged : ndarray of bool, shape (n_models,)
        Whether a model met a value that is not finite. It keeps its last finite weights.
    diverged_epoch, diverged_batch : ndarray of int64, shape (n_models,)
        Where it did, counted from 0; -1 where it did not.
    best_coef : ndarray of shape (n_features,) or (n_classes, n_features), or None
        The best candidate refitted on every row that some split trains or scores; None without a refit.
    best_intercept : float, ndarray of shape (n_classes,), or None
    best_steps : int
        The updates of the refit, and of `partial_fit` since.
    best_epochs : int
        Its epochs.
    feature_names : tuple of str, or None
        The columns of a DataFrame that `fit` was given, which `predict` and `partial_fit` hold another one's against.
    fill : ndarray of shape (n_features,) or None
        What `predict` puts in the place of a NaN: the means of the columns over the refit's rows, with `missing="mean"`.
    class_weight : ndarray of float64, shape (n_classes,), or None
        The factors on the refit's sample weights.
    best_diverged : bool
        Whether the refit diverged.
    arrivals : dict of arrays of shape (n_models,), or None
        Of the solvers of the optimum. "how" says how each model ended: 1 converged, 2 at `max_iter`, 3 where no step
        lowers the objective in this precision, 4 not finite at the start, 0 interrupted; "n_iter" and "n_passes" (over X),
        "objective" (mean loss and penalty), "gradient_norm" (its largest component), "gap" (what the objective may still
        lose; for "coordinate-descent" of squared_error the duality gap), "separable" and "one_class" (what a warning has
        said), and, where the Gram matrix of the training rows was factored, "smallest_pivot" (the least share of a column
        that the columns before it do not explain; the penalty counts) and "dropped" (columns that they explain up to
        rounding, whose weights stay 0); "closed_form": leave-one-out was solved from the sums of all rows, and
        "smallest_pivot" is a lower bound.
    refit_arrival : dict of the same, of the refit; or None
    interrupted : bool
        Whether Ctrl-C or `max_seconds` ended the fit early.
    stop_reason : str
        "done", "interrupted", "max_seconds" or "callback" (one ended the training).
    device : str
        "cpu" or "cuda": where the models were trained. The weights have the same bits.
    device_reason : str
        Why there and, on a GPU, how: "cpu: where the data lives".
    version : str
        Of the gradfold that trained them.
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
        best_coef: Array | None = None,
        best_intercept: float | Array | None = None,
        best_steps: int = 0,
        best_diverged: bool = False,
        stop_reason: str,
        version: str,
        folds_digest: str | None = None,
        folds: Folds | None = None,
        data: tuple[Any, Array, Array | None] | None = None,
        scored: Validation | None = None,
        split_fill: Array | None = None,
        best_epoch: Array | None = None,
        epochs_trained: Array | None = None,
        stop_codes: Array | None = None,
        survived: Array | None = None,
        learning_rate: Array | None = None,
        train_history: Array | None = None,
        scoring: str | None = None,
        split_scores: Array | None = None,
        choose: str = "best",
        best_epochs: int = 0,
        fill: Array | None = None,
        class_weight: Array | None = None,
        state: dict[str, Array] | None = None,
        metadata: Mapping[str, Any] | None = None,
        device: str = "cpu",
        device_reason: str = "cpu: where the data lives",
        arrivals: dict[str, Array] | None = None,
        refit_arrival: dict[str, Array] | None = None,
        feature_names: tuple[str, ...] | None = None,
    ) -> None:
        shape = held_out_loss.shape
        done = np.where(diverged_epoch >= 0, diverged_epoch, len(history)).reshape(shape)  # of files of version 1
        self.epochs_trained = done if epochs_trained is None else epochs_trained
        self.best_epoch = self.epochs_trained.copy() if best_epoch is None else best_epoch
        self.stop_codes = np.zeros(shape, np.uint8) if stop_codes is None else stop_codes
        self.survived = np.ones(shape[0], np.bool_) if survived is None else survived
        self.learning_rate = np.full(shape, np.nan) if learning_rate is None else learning_rate
        self.train_history = train_history
        self.scoring = scoring
        self.split_scores = split_scores
        self.choose = choose
        self.best_epochs = best_epochs
        self.fill = fill
        self.class_weight = class_weight
        self.metadata = {} if metadata is None else dict(metadata)
        self.device = device
        self.device_reason = device_reason
        self.arrivals = arrivals
        self.refit_arrival = refit_arrival
        self._state = state
        self._scored = scored
        self._split_fill = split_fill
        self.candidates = candidates
        self.loss = loss
        self.solver = solver
        self.solver_reason = solver_reason
        self.feature_names = feature_names
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
        return int(self.coef.shape[-1])

    @property
    def diverged(self) -> Array:
        """Whether each model diverged, bool of shape (n_models,)."""
        return np.asarray(self.diverged_epoch >= 0)

    @property
    def converged(self) -> npt.NDArray[np.bool_] | None:
        """Whether each model came to its optimum, bool of shape (n_models,); None for solvers of epochs.

        For L-BFGS and Newton's method `fit`'s `tol` says when, for "coordinate-descent" of log_loss by the smallest
        subgradient; for "cholesky" the solution was exact; for "coordinate-descent" of squared_error the conditions of
        optimality hold up to rounding, or the duality gap is at most tol / 20 of Σ w y² / Σ w, y centred.
        """
        return None if self.arrivals is None else np.asarray(self.arrivals["how"] == _optimum.CONVERGED)

    @property
    def best_converged(self) -> bool | None:
        """The same for the refit."""
        return None if self.refit_arrival is None else bool(self.refit_arrival["how"] == _optimum.CONVERGED)

    @property
    def n_iter(self) -> npt.NDArray[np.int64]:
        """Iterations of each model, shape (n_models,): steps to the optimum, or updates of a solver of epochs."""
        return np.asarray(self.steps)

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C or `max_seconds` ended the fit early."""
        return self.stop_reason in ("interrupted", "max_seconds")

    @property
    def stop_reasons(self) -> npt.NDArray[np.str_]:
        """Why each model's training ended, shape (n_candidates, n_splits).

        "done" (after all epochs), "early_stopping", "halving", "callback", "diverged", "interrupted" or "max_seconds".
        """
        return np.array(REASONS)[self.stop_codes]

    @property
    def train_loss(self) -> Array | None:
        """The running training loss of each model's last epoch, shape (n_candidates, n_splits); None if not tracked."""
        if self.train_history is None:
            return None
        out = np.full(self.held_out_loss.shape, np.nan)
        for epoch in self.train_history:
            np.copyto(out, epoch, where=~np.isnan(epoch))
        return out

    @property
    def params(self) -> list[dict[str, Any]]:
        """Each candidate's l1, l2, learning_rate, schedule, what the grid sets, and whatever is not `fit`'s default.

        The batch size, solver and loss that all candidates share are in `settings`, `solver` and `loss`.
        """
        return [dict(row) for row in self._params]

    @property
    def mean_held_out_loss(self) -> Array:
        """The unweighted mean of `held_out_loss` over the splits, shape (n_candidates,); NaN if one of them is."""
        if self.n_splits == 0:
            return np.full(self.n_candidates, np.nan)
        return np.asarray(self.held_out_loss.mean(axis=1))

    @property
    def ranked(self) -> bool:
        """Whether some candidate that can be the best one has a number to be ranked by."""
        return not np.isnan(self._order()).all()

    @property
    def best_candidate(self) -> int:
        """The candidate of the lowest mean held-out loss, or of the highest mean score where `scoring` asked for one.

        NaN comes last, ties go to the lower index, and candidates that halving left out do not compete. With
        `choose="one_se"` it is the simplest one within a standard error of that. It is 0 where none could be `ranked`.
        """
        order = self._order()
        if self.choose == "one_se":
            error = _choose.standard_error(self.held_out_loss if self.split_scores is None else self.split_scores)
            return _choose.one_standard_error(order, error, self._params)
        return int(np.argmin(np.where(np.isnan(order), np.inf, order)))

    def _order(self) -> Array:
        """What candidates are ranked by, (n_candidates,): lower is better, NaN does not compete."""
        if self.split_scores is None or self.n_splits == 0:
            order = self.mean_held_out_loss
        else:
            order = -self.split_scores.mean(axis=1)
        return np.where(self.survived, order, np.nan)

    def _refit_epochs(self) -> int | None:
        """For how many epochs the best candidate is refitted: the rounded mean over its splits. None is all of them."""
        if self.n_splits == 0:
            return None
        stopping = self.settings.get("early_stopping")
        kept = self.best_epoch if stopping is not None and stopping["restore_best"] else self.epochs_trained
        mine = kept[self.best_candidate][~self.diverged.reshape(kept.shape)[self.best_candidate]]
        # Half an epoch is rounded up. Integers, so that no order of a sum matters.
        return max(1, (2 * int(mine.sum()) + len(mine)) // (2 * len(mine))) if len(mine) else None

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
        """The refitted model's raw prediction, X @ best_coef.T + best_intercept.

        Parameters
        ----------
        X : array_like of shape (n_rows, n_features)
            Checked as in `fit`: its features are counted, its values must be finite. Where `fit` filled missing cells, NaN is
            filled with `fill`. A float32 X is copied, with a warning, for a float64 model; for a float64 X the weights of a
            float32 model are widened, which is exact.
        n_threads : int, optional
            Default: the processors this process may use.

        Returns
        -------
        ndarray of shape (n_rows,) or (n_rows, n_classes)
            In the wider one of X's and the model's dtypes.

        Raises
        ------
        RuntimeError
            There is no refitted model.
        ValueError
            Another number of features, columns of other names or in another order, or a value that is not finite.
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
        _check.same_features("X", X, self.feature_names)
        if data.dtype == np.float32 and self.best_coef.dtype == np.float64:
            data, copied = data.astype(np.float64), f"X (dtype float32) to float64, {2 * data.nbytes / 1e6:.3g} MB"
        if copied:
            warnings.warn(f"predict copied {copied}", UserWarning, stacklevel=3)
        threads = _check.threads(n_threads)
        if self.fill is not None:
            data = np.ascontiguousarray(_missing.filled_rows(data, self.fill))
        _check.finite("X", data, threads)
        weights = self.best_coef.astype(data.dtype).reshape(-1, self.n_features)
        raw = _raw(data, weights, np.asarray(self.best_intercept, data.dtype).reshape(-1), threads)
        return raw if self.best_coef.ndim == 2 else raw[:, 0]

    def predict(self, X: npt.ArrayLike, *, threshold: float | None = None, n_threads: int | None = None) -> Array:
        """The label of each row, or, for a regression, the prediction itself.

        Parameters
        ----------
        X : array_like of shape (n_rows, n_features)
            As for `predict_raw`.
        threshold : float, optional
            Of a binary classifier: the raw prediction above which a row gets the larger label. Default: 0. `calibrate` finds
            one for each split; their mean is a choice.
        n_threads : int, optional
            Default: the processors this process may use.

        Returns
        -------
        ndarray of shape (n_rows,)
            In the dtype of `classes`; for a regression as `predict_raw`.

        Raises
        ------
        ValueError
            A threshold for another kind of model, or one that is not finite; else as `predict_raw`.
        """
        several = self.loss == "multinomial"
        binary = self.classes is not None and not several
        if threshold is not None and not binary:
            raise ValueError(f"threshold: got {threshold!r} for loss={self.loss!r}, which has none; wanted None")
        limit = 0.0 if threshold is None else _threshold(threshold)
        raw = self._predict_raw(X, n_threads)
        if self.classes is None:
            return raw
        if several:
            return np.asarray(self.classes[raw.argmax(axis=1)])
        return np.asarray(self.classes[(raw > limit).astype(np.intp)])

    def partial_fit(
        self,
        X: npt.ArrayLike,
        y: npt.ArrayLike,
        sample_weight: npt.ArrayLike | None = None,
        *,
        epochs: int = 1,
        n_threads: int | None = None,
    ) -> Run:
        """Go on training the refitted model on these rows, from where it is, and return the run itself.

        Solver, penalties, batch size, learning rate and its schedule are those of the fit, with the optimiser's own state;
        the schedules go on counting, except for "cosine", which begins anew with each call. Frozen are the moments of
        `standardize`, the means in `fill` and the class weights. The models of the splits and their scores stay. It
        trains on the CPU, whatever the device of the fit.

        Parameters
        ----------
        X : array_like of shape (n_rows, n_features)
            Converted to the model's dtype, without a warning.
        y : array_like of shape (n_rows,)
            Of labels only those that `fit` knew.
        sample_weight : array_like of shape (n_rows,), optional
        epochs : int
            Each visits these rows once, in an order of its own.
        n_threads : int, optional

        Raises
        ------
        RuntimeError
            There is no refitted model, it has diverged, the file it comes from holds no optimiser state, or the solver is one of
            the optimum (as "auto" mostly is): fit with solver="adam", or give `epochs`.
        ValueError, TypeError
            As `fit`; nothing has changed then.
        KeyboardInterrupt
            Ctrl-C; the model has trained up to its last whole batch.

        Warns
        -----
        RuntimeWarning
            The model diverged; it keeps its last finite weights.
        """
        _partial.partial_fit(self, X, y, sample_weight, epochs, n_threads, stacklevel=3)
        return self

    def predict_proba(self, X: npt.ArrayLike, *, n_threads: int | None = None) -> Array:
        """The probability of each class; for log_loss and multinomial.

        Parameters
        ----------
        X, n_threads
            As for `predict_raw`.

        Returns
        -------
        ndarray of shape (n_rows, n_classes)
            In the order of `classes`, and in the dtype of `predict_raw`.

        Raises
        ------
        RuntimeError
            The run used another loss, or there is no refitted model.
        """
        if self.loss not in ("log_loss", "multinomial"):
            raise RuntimeError(f"predict_proba needs loss='log_loss' or 'multinomial'; this run used {self.loss!r}")
        raw = self._predict_raw(X, n_threads)
        if self.loss == "multinomial":
            return _loss.softmax(raw)
        return np.stack([_loss.expit(-raw), _loss.expit(raw)], axis=1)

    # -- held-out predictions and scores ------------------------------------------------------------------------------

    def held_out_raw_prediction(self, *, models: Iterable[int] | None = None, n_threads: int | None = None) -> Array:
        """Each model's raw prediction of the rows its split scores, from the X that `fit` was given, on the host.

        Parameters
        ----------
        models : iterable of int, optional
            Which models; default all. The result takes n_models · n_rows numbers of X's dtype, which for many models
            is more than X: ask for a few at a time, or use `scores`, which never holds it.

        Returns
        -------
        ndarray of shape (n_models, n_rows) or (n_models, n_rows, n_classes)
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
        outputs = self.coef.shape[1:-1]
        out = np.full((len(chosen), len(X), *outputs), np.nan, X.dtype)
        by_split: dict[int, list[int]] = {}
        for place, m in enumerate(chosen):
            by_split.setdefault(m % self.n_splits, []).append(place)
        for split, places in by_split.items():
            models_here = [chosen[place] for place in places]
            for rows in _row_chunks(folds.score_indices(split), X):
                coef = self.coef[models_here].reshape(-1, self.n_features)
                raw = _raw(self._rows(X, rows, split), coef, self.intercept[models_here].reshape(-1), threads)
                raw = raw.reshape(len(rows), len(places), *outputs)
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

    def _rows(self, X: Any, rows: Array, split: int) -> Array:
        """Rows of X as the models of a split see them: missing cells are the means of its training rows.

        Those of an X on the GPU are fetched to the host.
        """
        data: Array = X.rows(rows) if _device.is_device_array(X) else X[rows]
        if self._split_fill is None:
            return data
        return np.ascontiguousarray(_missing.filled_rows(data, self._split_fill[split]))

    def _raw_of_rows(self, X: Any, rows: Array, m: int) -> Array:
        """Raw predictions of some rows by model m, in float64 whatever X's type: (n_rows,), or (n_rows, n_outputs)."""
        if _device.is_device_array(X) or self._split_fill is not None:
            X, rows = self._rows(X, rows, m % self.n_splits), np.arange(len(rows))
        coef = self.coef[m].astype(np.float64).reshape(-1, self.n_features)
        intercept = np.asarray(self.intercept[m], np.float64).reshape(-1)
        out = np.empty((len(rows), len(coef)))
        _core.gradient.raw_prediction_of_rows(
            X, rows, np.ascontiguousarray(coef.T), intercept, out, self.settings["n_threads"]
        )
        return out if self.coef.ndim > 2 else out[:, 0]

    def _held_out(self) -> tuple[Any, Array, Array | None, Folds | Validation]:
        if self._data is None:
            raise RuntimeError(
                "held-out predictions need X, which this run does not hold (it was loaded, or interrupted early)"
            )
        if self._folds is None:
            raise RuntimeError("this run has no splits, so there are no held-out rows; pass folds to fit")
        if self._scored is not None:
            return self._scored.X, self._scored.y, self._scored.sample_weight, self._scored
        return (*self._data, self._folds)

    # -- tables, pictures, files --------------------------------------------------------------------------------------

    def to_frame(self) -> pd.DataFrame:
        """One row for each candidate, in the grid's order; needs pandas.

        Returns
        -------
        pandas.DataFrame
            Columns: the parameters, `mean` and `std` of the held-out loss over the splits (the population's standard
            deviation, as in scikit-learn's `cv_results_`), `rank` (1 is best, ties share the lower rank, NaN comes last),
            `diverged` (how many of the candidate's models did), `epochs` (the mean of what its models trained, where they
            differ), `survived` where halving left some behind, the score under its own name where `scoring` ranks,
            `train_loss` where it was tracked, and `split0`, `split1`, … with each split's held-out loss.

        Raises
        ------
        ImportError
            There is no pandas.
        """
        try:
            import pandas as pd
        except ImportError:
            raise ImportError("to_frame needs pandas: pip install 'gradfold[cli]'") from None
        rows: list[dict[str, Any]] = self._params if self.candidates is None else list(self.candidates)
        columns: dict[str, Any] = {name: [row[name] for row in rows] for name in rows[0]}
        mean = self.mean_held_out_loss
        order = self._order()
        order = np.where(np.isnan(order), np.inf, order)
        columns["mean"] = mean
        columns["std"] = self.held_out_loss.std(axis=1) if self.n_splits else np.full(len(rows), np.nan)
        columns["rank"] = [1 + int((order < value).sum()) for value in order]
        columns["diverged"] = self.diverged.reshape(len(rows), self.n_splits).sum(axis=1)
        if self.n_splits and (self.epochs_trained != self.epochs_trained[0, 0]).any():
            columns["epochs"] = self.epochs_trained.mean(axis=1)
        if not self.survived.all():
            columns["survived"] = self.survived
        if self.split_scores is not None:
            columns[str(self.scoring)] = self.split_scores.mean(axis=1)
        if self.train_loss is not None:
            columns["train_loss"] = self.train_loss.mean(axis=1)
        for split in range(self.n_splits):
            columns[f"split{split}"] = self.held_out_loss[:, split]
        return pd.DataFrame(columns)

    def plot(
        self, ax: Axes | None = None, *, kind: str = "validation", candidates: Iterable[int] | int | None = None
    ) -> Axes:
        """Draw a picture of the run, and return the axes it is on; needs matplotlib.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Default: a new figure.
        kind : {"validation", "learning", "folds", "roc", "pr"}
            The validation curve, losses by epoch, a box of the splits' losses for each candidate, or the held-out ROC or
            precision-recall curves of a classifier.
        candidates : int or iterable of int, optional
            Which to draw. Default: as many of the best as the kind has room for.

        Raises
        ------
        ValueError, TypeError
            An unknown kind, or a candidate out of range.
        RuntimeError
            The run has no splits; for "roc" and "pr", it is a regression or was loaded from a file.
        """
        return _plots.plot(self, kind, ax, candidates)

    def diagnose(self, *, n_threads: int | None = None) -> Report:
        """Which models diverge, do not learn, learn by heart or learn too little; formulas in ``docs/diagnostics.md``.

        Raises
        ------
        RuntimeError
            The run was loaded from a file, has no splits, or was fitted from an X on the GPU.
        """
        if self._data is not None and _device.is_device_array(self._data[0]):
            raise RuntimeError("diagnose needs X on the host, and this run's is on the GPU; fit X with device='cuda'")
        return diagnostics.diagnose(self, n_threads=n_threads)

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
            `path` is there and no regular file, the labels are objects that no plain array holds, or `metadata` holds
            what JSON does not.
        TypeError
            `path` is no path.
        """
        target = _check.path("path", path)
        try:
            json.dumps(self.metadata, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"metadata: got what JSON cannot hold ({error})") from None
        arrays: dict[str, Array] = {}
        for name in _ARRAYS:
            value = getattr(self, name)
            if value is not None:
                array = np.asarray(value, dtype=self.coef.dtype if name == "best_intercept" else None)
                arrays[name] = _text(array) if array.dtype.kind == "O" else array
        if self._state is not None:
            arrays.update({f"{_STATE}{name}": self._state[name] for name in sorted(self._state)})
        for prefix, found in ((_ARRIVALS, self.arrivals), (_REFIT_ARRIVAL, self.refit_arrival)):
            arrays.update({f"{prefix}{name}": np.asarray(values) for name, values in sorted((found or {}).items())})
        meta = {
            "format": _FORMAT,
            "format_version": _FORMAT_VERSION,
            "version": self.version,
            "loss": self.loss,
            "solver": self.solver,
            "solver_reason": self.solver_reason,
            "settings": self.settings,
            "seed": self.settings.get("seed"),
            "candidates": None if self.candidates is None else [_without_inf(row) for row in self.candidates],
            "drawn": self.candidates is not None and self.candidates.drawn,
            "params": [_without_inf(row) for row in self._params],
            "scoring": self.scoring,
            "choose": self.choose,
            "best_epochs": self.best_epochs,
            "metadata": self.metadata,
            "feature_names": self.feature_names,
            "best_steps": self.best_steps,
            "best_diverged": self.best_diverged,
            "stop_reason": self.stop_reason,
            "device": self.device,
            "device_reason": self.device_reason,
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
            if self.split_scores is not None:
                text += f" and {self.scoring} {self.split_scores[best].mean():.6g}"
        if self.diverged.any():
            text += f", {int(self.diverged.sum())} diverged"
        if self.best_diverged:
            text += ", the refit diverged"
        return text + (f", {self.stop_reason}>" if self.interrupted else ">")


def load(path: str | os.PathLike[str]) -> Run:
    """Read a run that `Run.save` wrote.

    Parameters
    ----------
    path : str or path
        The file; nothing in it is executed.

    Returns
    -------
    Run
        Without X: what needs held-out rows raises.

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
        models: dict[str, Any] = {name: arrays[name] for name in _ARRAYS[:_REQUIRED]}
        models.update({name: arrays.get(name) for name in _ARRAYS[_REQUIRED + 3 :]})
        state, arrivals, refit_arrival = (
            {name[len(prefix) :]: array for name, array in arrays.items() if name.startswith(prefix)}
            for prefix in (_STATE, _ARRIVALS, _REFIT_ARRIVAL)
        )
        candidates = None
        if meta["candidates"] is not None:
            candidates = Candidates(_with_inf(row) for row in meta["candidates"])
            candidates.drawn = bool(meta.get("drawn", False))
        run = Run(
            candidates=candidates,
            params=[_with_inf(row) for row in meta["params"]],
            scoring=meta.get("scoring"),
            choose=meta.get("choose", "best"),
            best_epochs=int(meta.get("best_epochs", meta["settings"].get("epochs", 0))),
            metadata=meta.get("metadata"),
            feature_names=None if meta.get("feature_names") is None else tuple(meta["feature_names"]),
            state=state or None,
            arrivals=arrivals or None,
            refit_arrival=refit_arrival or None,
            loss=_check.choice("loss", meta["loss"], (*_loss.NAMES, "auto")),
            solver=meta["solver"],
            solver_reason=meta["solver_reason"],
            settings=meta["settings"],
            best_steps=int(meta["best_steps"]),
            best_diverged=bool(meta["best_diverged"]),
            stop_reason=meta["stop_reason"],
            device=str(meta.get("device", "cpu")),  # files of older versions: there was nothing else
            device_reason=str(meta.get("device_reason", "cpu: where the data lives")),
            version=meta["version"],
            folds_digest=meta["folds_digest"],
            best_coef=arrays.get("best_coef"),
            best_intercept=float(best_intercept) if best_intercept is not None and not best_intercept.ndim else best_intercept,
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


def _row_chunks(rows: Array, X: Any) -> Iterable[Array]:
    step = max(1, _GATHER_BYTES // (X.shape[1] * X.itemsize))
    for a in range(0, len(rows), step):
        yield rows[a : a + step]


def _threshold(value: object) -> float:
    if isinstance(value, (bool, str, bytes)):
        raise TypeError(f"threshold: got {_check.describe(value)}, wanted a finite number")
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise TypeError(f"threshold: got {_check.describe(value)}, wanted a finite number") from None
    if not np.isfinite(number):
        raise ValueError(f"threshold: got {value!r}, wanted a finite number")
    return number


def _without_inf(row: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no infinity, which is the limit of no limit (`clip_norm`)."""
    return {name: "inf" if isinstance(value, float) and value == np.inf else value for name, value in row.items()}


def _with_inf(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: np.inf if isinstance(value, str) and value == "inf" else value for name, value in row.items()}


def _text(labels: Array) -> Array:
    """Object labels (text from pandas, say) as an array of a plain dtype, so that no pickle is needed."""
    plain = np.array(labels.tolist())
    if plain.dtype.kind == "O" or plain.tolist() != labels.tolist():
        raise ValueError(f"classes: got the labels {labels.tolist()!r}, wanted text or numbers, which a file can hold")
    return plain
