"""`fit`: train every split of every candidate at once."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

import gradfold
from gradfold import (
    _auto,
    _callbacks,
    _check,
    _choose,
    _convergence,
    _device,
    _held_out,
    _learning_rate,
    _loop,
    _missing,
    _optimum,
    _optimum_check,
    _partial,
    _plan,
    _problem,
    metrics,
)
from gradfold import candidates as _candidates
from gradfold._interrupt import Interrupt, Interrupted
from gradfold._loop import Trained, Watch
from gradfold._plan import Plan, Settings
from gradfold._problem import REFIT, Problem
from gradfold._stopping import REASONS, EarlyStopping, Halving
from gradfold.candidates import DEFAULTS, Candidates
from gradfold.index import Folds
from gradfold.run import Run

Array = npt.NDArray[Any]

_REMEDY = "lower learning_rate, or use standardize=True"
# Beyond so many splits a test of their noise would cost more than it tells.
_NOISE_SPLITS = 200


def fit(
    X: Any,
    y: Any,
    candidates: Candidates | Iterable[Mapping[str, Any]] | None = None,
    *,
    folds: Any = None,
    validation_data: Any = None,
    loss: str = "auto",
    loss_epsilon: float = 0.1,
    solver: str = "auto",
    l1: float = 0.0,
    l2: float = 1e-4,
    learning_rate: float | str | None = None,
    schedule: str = "constant",
    epochs: int | None = None,
    batch_size: int | None = None,
    batch_scaling: str | None = None,
    shuffle: bool = True,
    seed: int = 0,
    fit_intercept: bool = True,
    sample_weight: npt.ArrayLike | None = None,
    class_weight: str | Mapping[Any, float] | None = None,
    missing: str = "error",
    standardize: bool = False,
    coef_init: npt.ArrayLike | None = None,
    intercept_init: npt.ArrayLike | None = None,
    init_seed: int | None = None,
    init_scale: float = 0.01,
    momentum: float = 0.9,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float | None = None,
    rho: float = 0.99,
    weight_decay: float = 0.01,
    clip_norm: float = np.inf,
    clip_value: float = np.inf,
    average: int = 0,
    max_iter: int = 1000,
    tol: float = 1e-4,
    power_t: float = 0.25,
    decay: float = 0.9,
    decay_epochs: float = 10,
    warmup: float = 0,
    plateau_factor: float = 0.2,
    early_stopping: bool | Mapping[str, Any] | None = None,
    halving: bool | Mapping[str, Any] | None = None,
    track_train_loss: bool = False,
    callbacks: Any = None,
    progress: bool | None = None,
    scoring: str | None = None,
    choose: str = "best",
    refit: bool = True,
    max_seconds: float | None = None,
    device: str | None = None,
    n_threads: int | None = None,
    dtype: npt.DTypeLike | None = None,
    check_finite: bool = True,
) -> Run:
    """Train one linear model for each candidate and split, all in one pass over X, and refit the best candidate.

    Every model's weights have the same bits whether it trains alone or beside thousands, on any number of threads and
    on any instruction level; and a row that a model does not train on cannot touch it. One exception: leave-one-out with
    solver="cholesky" has a closed form, in which a finite held-out row may change last digits (see `solver`).

    Parameters
    ----------
    X : array_like of shape (n_rows, n_features)
        At least two rows. float32 and float64 in C order are used where they lie. All else is copied, with one warning
        that names it. Sparse matrices and float16 raise, because their kernels do not exist yet.
    y : array_like of shape (n_rows,)
        Targets or labels; converted to X's dtype. Labels that are all the same raise; a constant target of a regression
        warns.
    candidates : Candidates or iterable of mappings, optional
        What varies, from `grid` or `sample`: any of l1, l2, learning_rate, schedule, batch_size, solver, loss,
        loss_epsilon, init_seed, init_scale, and momentum to plateau_factor below. They override the keywords of the
        same name. Default: one candidate made of the keywords. Candidates that differ in batch_size, solver or loss
        train in parts, an epoch of each in turn. Losses that differ must all be of classifiers or all of regressions,
        and need `scoring`.
    folds : Folds, int, iterable of (train, test) index arrays, splitter, or None
        The splits. An int k is k-fold, stratified for labels, shuffled by `seed`. A splitter is any object with
        `split(X, y)`, scikit-learn's for example. None is 5-fold where there is something to choose (two candidates
        or more), and otherwise no split at all: only the refit is trained.
    validation_data : (X, y) or (X, y, sample_weight), optional
        Instead of `folds`: one split, which trains on all of X and is scored on these rows. The best of these models
        is the refit.
    loss : str
        A name of `gradfold.loss`, or "auto", which reads y. Two distinct labels of any type are encoded (the larger is
        positive) for "log_loss", 3 to 1,000 for "multinomial"; booleans, text and integers always count as labels, so
        whoever means a regression of integers names its loss; floats outside {0, 1} and {-1, 1}, whole numbers too, mean
        "squared_error", which is ½ (y − z)².
    loss_epsilon : float
        The threshold of "huber", and half the width of the insensitive zone of the epsilon_insensitive losses.
    solver : {"auto", "sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam", "adamw", "lbfgs", "newton-cholesky", \
        "cholesky", "coordinate-descent"}
        Solvers of epochs with torch.optim's formulas, or of the optimum, each model to its own `tol`. "lbfgs" and
        "newton-cholesky" are for losses with a second derivative ("log_loss", "squared_error", "huber", "squared_hinge",
        "modified_huber", "squared_epsilon_insensitive", and for "lbfgs" also "multinomial"); L-BFGS turns to Newton's
        Hessian where it has taken as many passes as that costs. For "squared_error", "cholesky" solves the normal
        equations, exactly up to rounding (where they are too ill-conditioned for that, passes over X refine them). Splits of
        "cholesky" that leave one row out are solved in closed form [2]_, from one Gram matrix of all rows, held-out ones too,
        with more than 64 rows, `check_finite`, no `standardize` and no cell to fill; ``Run.arrivals["closed_form"]`` names the
        models. `check_finite=False` goes through the folds instead, and no held-out row touches a bit. "coordinate-descent" is
        for l1, alone or with l2: the elastic net of "squared_error", and of "log_loss" by the proximal Newton method, with any
        number of features. With a solver of the optimum that is named, what speaks of epochs raises (but for `shuffle`, which is
        not used). "auto" takes each model to its optimum ("cholesky", "coordinate-descent"
        with l1, or "lbfgs") unless something is given that only epochs have (`epochs` or `batch_size`, say), the loss has no
        second derivative, or l1 no solver for its loss: then it is adam. `Run.solver_reason` says what it chose and why.
    l1, l2 : float
        Penalties, at least 0: l1 · Σ|w| (proximal) and ½ · l2 · Σw², beside the mean loss. The intercept has none.
    learning_rate : float or "auto", optional
        Above 0. Default: 0.1 for sgd and adagrad, 0.01 for the others. "auto" is a range test on each split's own
        training rows: every rate of a grid trains for a few batches, and half of the lowest that is nearly as good as
        the best is taken; `Run.learning_rate` says which.
    schedule : {"constant", "cosine", "inverse_scaling", "exponential", "step", "optimal", "adaptive"}
        With t the model's own updates so far and s the steps of an epoch: "cosine" lowers the rate to 0 over all epochs;
        "inverse_scaling" is lr / (t + 1)^power_t; "exponential" is lr · decay^(t / s); "step" is
        lr · decay^⌊t / (s · decay_epochs)⌋; "optimal" is scikit-learn's 1 / (l2 · (t0 + t)), whatever `learning_rate`;
        "adaptive" multiplies the rate by `plateau_factor` whenever the monitored loss has not improved for `patience`
        epochs (those of `early_stopping`, or else the training loss and 5), down to 1e-6.
    epochs, batch_size : int, optional
        Default: 10 epochs, in batches of 256, for the solvers that have any; where "auto" is adam only because no solver of
        the optimum takes the loss, about 3,000 updates (10 to 200 epochs, batches of 32 below 10,000 rows). An epoch visits
        every row once, in batches of `batch_size` rows: ⌈n_rows / batch_size⌉ steps. Under k-fold a model trains on about
        (k − 1)/k of each batch.
    batch_scaling : {None, "linear", "sqrt"}
        For candidates with their own batch_size B: multiply the learning rate by B / batch_size, or by its square root,
        with this keyword's `batch_size`. A rate that "auto" found is not scaled: it was found with B.
    shuffle : bool
        Whether each epoch has its own order. It is computed on the fly from `seed`; nothing is stored.
    seed : int
        0 to 2^64 − 1: of the order of rows and of folds that `fit` makes itself.
    fit_intercept : bool
        Whether models have an intercept; it is never penalised.
    sample_weight : array_like of shape (n_rows,), optional
        At least 0; converted to X's dtype. A row of weight 0 is no training row.
    class_weight : "balanced" or mapping from labels to factors, optional
        Multiplies the training weights, and nothing else: held-out losses and scores keep `sample_weight`. "balanced" is
        scikit-learn's Σw / (k · Σw of the class), from each split's own training rows. Labels that a mapping leaves out
        have the factor 1.
    missing : {"error", "mean"}
        What a NaN in X is. "mean" counts it as the mean of its column, weighted by `sample_weight`, over each split's own
        training rows. It takes a copy of X, made only where something is missing; splits then train one after another
        within an epoch. `Run.fill` are the refit's means, which `predict` uses.
    standardize : bool
        Train on standardised features, with mean and scale from each split's own training rows; penalties act on the
        standardised weights, and the weights returned are on X's own scale. X is not copied.
    coef_init : array_like of shape (n_features,) or (n_models, n_features), optional
        For "multinomial" (n_classes, n_features) or (n_models, n_classes, n_features).
        Where to start, on X's own scale. Default: 0. Weights for a single model serve every model and the refit; for
        two models or more, a row for each serves the models of the splits, and the refit starts from 0.
    intercept_init : float or array_like of shape (n_models,), optional
        The same for the intercepts, for "multinomial" (n_classes,) or (n_models, n_classes); without `fit_intercept` only 0 is possible.
    init_seed : int, optional
        Add normal draws of standard deviation `init_scale` to the starting weights, on X's own scale: the same ones for
        every split and the refit. ``grid(init_seed=[0, 1, 2])`` is a multi-start.
    init_scale : float
        At least 0.
    momentum, beta1, beta2, epsilon, rho, weight_decay : float
        Of the solvers, with torch.optim's meaning and defaults: momentum and nesterov; adam and adamw; epsilon 1e-8, for
        adagrad 1e-10; rho of rmsprop (torch's alpha); weight_decay of adamw only, apart from l2.
    clip_norm, clip_value : float
        Limits of the mean loss gradient before the penalty: of its 2-norm, intercept included, then of each component.
    average : int
        From a model's own update number `average` ≥ 1 on, its weights are the mean over the updates. 0: no average.
    max_iter : int
        Steps of a model on the way to its optimum, at most. A model that has not come to its optimum then keeps the weights it has, and
        a `ConvergenceWarning` names its candidate.
    tol : float
        Of "lbfgs" and "newton-cholesky": the largest component of the gradient of mean loss and penalty at which a model has arrived, as in
        scikit-learn (with standardize=True of the standardised weights); and what the objective may still lose, as half the
        slope along the next direction estimates it, is to be at most tol / 1,000 of the objective, or of a hundredth of the
        objective at weights of 0 if that is more. Of "coordinate-descent" with "log_loss" the same, of the smallest subgradient;
        with "squared_error" a share of the mean square of y (docs/optimum.md).
    power_t, decay, decay_epochs, plateau_factor : float
        Of the schedules.
    warmup : float
        Epochs over which the learning rate rises linearly, whatever the schedule.
    early_stopping : bool or dict, optional
        ``dict(patience=5, tolerance=1e-4, monitor="auto", restore_best=True)`` or some of these; True is the defaults. A
        model stops when its monitored loss has not fallen below the lowest by more than `tolerance` for `patience`
        epochs; NaN is no improvement. `monitor` is "held_out", "train" (the running loss of the epoch) or "auto":
        held-out losses where there are splits, else the training loss. `restore_best` goes back to the weights of the
        lowest monitored loss, also at the end; `held_out_loss` is theirs. Each model stops by its own losses, so that it
        does not depend on the others. The refit trains for the mean of the best candidate's epochs, rounded, under the
        schedule of all `epochs`. Held-out losses of models that stopped by them are optimistic: rows that chose the
        epoch also judge it. Nested splits, or a test set, do not share that.
    halving : bool or dict, optional
        Successive halving [1]_: ``dict(factor=3, min_epochs=1)``. After min_epochs · factor^i epochs the best
        ⌈n / factor⌉ candidates by mean held-out loss (or `scoring`) go on, and the best candidate is one of those that
        are left at the end. Which candidates go on depends on the others, and so does for how long a model trains; the
        weights after so many epochs do not.
    track_train_loss : bool
        Keep each epoch's running training loss of each model, `Run.train_history`.
    callbacks : callable or list of callables, optional
        Called after each epoch with an `Epoch`, which holds the losses and can stop models, candidates or the training.
        With splits, the refit calls none. What a callback raises leaves `fit`, after all threads have stopped.
    progress : bool, optional
        True is a bar on a terminal, and elsewhere lines in key=value form, on standard error.
    scoring : str, optional
        Rank candidates by this score of `gradfold.metrics.SCORINGS` instead of the held-out loss.
    choose : {"best", "one_se"}
        "one_se" is the simplest candidate (larger penalties, all else equal) within one standard error of the best.
    refit : bool
        Train the best candidate once more, on every row that some split trains or scores.
    max_seconds : float, optional
        Stop at the first batch that ends after this time, as an interrupt does.
    device : {None, "cpu", "cuda"}
        None is where X, y and sample_weight live: "cuda" if one of them lies on an NVIDIA GPU. X on the GPU (of torch,
        CuPy or another library with ``__cuda_array_interface__`` or DLPack; float32 or float64, C-contiguous) is used
        where it lies; a NumPy X is copied there once. Else what is on the GPU (y, sample_weight, validation_data) is
        copied to the host, where folds, scores and metrics are computed; these fetch the rows they need, the moments
        of `standardize` all of X, once for each trainer, and solvers of the optimum all of X, once: what they do beside
        their passes over X is done on the CPU. The Run holds NumPy arrays, and they have the bits of a fit on
        the CPU. What is not built for GPUs raises: nothing falls back in silence. `Run.device_reason` says what ran
        where, and how.
    n_threads : int, optional
        Default: the processors this process may use.
    dtype : {float32, float64}, optional
        Convert X to it, without a warning. Default: keep float32 and float64, make float64 of the rest.
    check_finite : bool
        Check that X, y and sample_weight are finite, and that y is in the domain of its loss. Without it, a NaN in a
        row that a model trains on, its weight included, makes that model diverge; and leave-one-out with
        solver="cholesky" goes through the folds.

    Returns
    -------
    Run
        With `interrupted=True`, if Ctrl-C or `max_seconds` came first: each model then has the weights of its own
        last whole batch (under `restore_best`, of its best epoch), scores are those of the last epoch that all
        completed (NaN if there is none), and nothing is refitted; if the refit was under way, the refitted model has the
        weights of its last whole batch. Ctrl-C is caught in the main thread only, and only where Python's own handler is
        installed. `Run.history` takes 8 bytes for each model and epoch: 80 MB for 10,000 models and 1,000 epochs.

    Raises
    ------
    ValueError
        A bad value, shape or layout, a split without a training row, one label only, or a column without a value; the
        message names the argument. Also data on the GPU with device="cpu", and on a GPU what is not built for it.
    TypeError
        A bad type or dtype.
    DeviceError
        A GPU is asked for, by `device` or by where the data lives, and there is none that can be used; the message says
        what to install.
    DeviceMemoryError
        A MemoryError: the GPU's memory does not hold X and the models.
    MemoryError
        With a solver of the optimum: memory does not hold the weights of all models, candidates × splits.

    Warns
    -----
    RuntimeWarning
        Models of the splits diverged (one warning, with their number), the refit diverged, or no candidate could be
        ranked.
    ChoiceWarning
        The best candidate is at an edge of the grid, or the splits' losses differ by more than their noise
        (``warnings.filterwarnings("ignore", category=gradfold.ChoiceWarning)`` silences both).
    ConvergenceWarning
        Models of a solver of the optimum did not come to it, dropped a column, or have no optimum (separable classes without a
        penalty, a training side with one class); the message names their candidates.
    UserWarning
        X was copied, a class has fewer rows than there are folds, or the target of a regression is constant.

    References
    ----------
    .. [1] K. Jamieson, A. Talwalkar, "Non-stochastic best arm identification and hyperparameter optimization", AISTATS
       2016.
    .. [2] G. H. Golub, M. Heath, G. Wahba, "Generalized cross-validation as a method for choosing a good ridge parameter",
       Technometrics 21, 1979.
    """
    given = dict(locals())
    started = time.monotonic()
    where = _device.resolve(device, X=X, y=y, sample_weight=sample_weight)
    values = given | {"batch_size": _auto.BATCH_SIZE if batch_size is None else batch_size}
    keywords = {name: _candidates.keyword(name, values[name]) for name in DEFAULTS}
    params, table = _params(candidates, keywords)
    settings = Settings(
        params=params,
        epochs=_auto.EPOCHS if epochs is None else _check.integer("epochs", epochs, 1, 2**31 - 1),
        batch_size=keywords["batch_size"],
        batch_scaling=_optional(batch_scaling, lambda v: _check.choice("batch_scaling", v, _learning_rate.RULES)),
        shuffle=_check.boolean("shuffle", shuffle),
        seed=_check.seed(seed),
        fit_intercept=_check.boolean("fit_intercept", fit_intercept),
        standardize=_check.boolean("standardize", standardize),
        check_finite=_check.boolean("check_finite", check_finite),
        n_threads=_check.threads(n_threads),
        deadline=_optional(max_seconds, lambda v: started + _check.real("max_seconds", v, positive=True)),
        device=where,
        device_reason=_device.reason(device, where),
        max_iter=_check.integer("max_iter", max_iter, 1, 2**62),
        tol=_check.real("tol", tol, positive=True),
    )
    asked = set() if table is None else set(table.names)
    _optimum_check.check(params, given, asked)
    control = _Control(
        stopping=EarlyStopping.read(early_stopping),
        halving=Halving.read(halving),
        callbacks=_callbacks.read(callbacks),
        progress=_optional(progress, lambda v: _check.boolean("progress", v)),
        scoring=_optional(scoring, lambda v: _check.choice("scoring", v, metrics.SCORINGS)),
        choose=_check.choice("choose", choose, ("best", "one_se")),
        track_train_loss=_check.boolean("track_train_loss", track_train_loss),
        refit=_check.boolean("refit", refit),
        started=started,
    )
    if control.halving is not None:
        control.halving.rungs(len(params), settings.epochs)
    _check.choice("missing", missing, _missing.MODES)
    wanted = None if dtype is None else _check.float_dtype("dtype", dtype)
    if where == "cuda":
        _device.require_cuda()
    # Whether solvers may sum all rows, which says that X is finite, and nobody looks at X before.
    known = folds is None or isinstance(folds, (int, np.integer, Folds))
    plain = known and where == "cpu" and missing == "error" and class_weight is None and validation_data is None and max_seconds is None
    later = settings.check_finite and plain and any(row["solver"] in ("auto", *_optimum.SOLVERS) for row in params)

    with Interrupt() as interrupt:
        problem = Problem(loss=_first_loss(params))
        fitter = _Fitter(problem, settings, control, table, interrupt)
        try:
            interrupt.raising = True
            _problem.read(
                problem, X=X, y=y, sample_weight=sample_weight, folds=folds, validation_data=validation_data,
                class_weight=class_weight, missing=missing, dtype=wanted, seed=settings.seed,
                n_candidates=len(params), check_finite=settings.check_finite, n_threads=settings.n_threads,
                device=where, search_X=not later,
            )  # fmt: skip
            _settle_losses(params, problem, control)
            n_rows, n_features = problem.data.shape
            fitter.solver_reason, enough = _auto.settle(params, given, asked, n_rows, n_features)
            if enough is not None:
                settings.epochs, settings.batch_size = enough, params[0]["batch_size"]
            _settle_rates(params)
            if _optimum_check.check(params, given, asked):
                settings.epochs = 1
            if params[0]["solver"] in _optimum.SOLVERS:
                _optimum_check.check_losses(params, n_rows, n_features, where)
            if later:
                _check_X(problem, settings)
            problem.read_start(coef_init, intercept_init, len(params), settings.fit_intercept)
            if problem.folds is None and not control.refit:
                raise ValueError(
                    "refit: got False with no splits to train; wanted folds, two candidates, or refit=True"
                )
            fitter.prepare()
            interrupt.raising = False
        except Interrupted:
            run = fitter.collect(None, None, "interrupted")
        else:
            run = fitter.run()
    if interrupt.pressed and not run.interrupted:
        run.stop_reason = "interrupted"
    return run


def _check_X(problem: Problem, settings: Settings) -> None:
    """Refuse an X that is not finite, of a problem without class weights and fills."""
    if any(_optimum.uses_moments(row["solver"], row["loss"], *problem.data.shape) for row in settings.params):
        problem.check_finite_by_moments(settings.n_threads)
    else:
        _check.finite("X", problem.data, settings.n_threads)


@dataclass
class _Control:
    """How a fit is watched, stopped and judged; checked."""

    stopping: EarlyStopping | None
    halving: Halving | None
    callbacks: list[_callbacks.Callback]
    progress: bool | None
    scoring: str | None
    choose: str
    track_train_loss: bool
    refit: bool
    started: float


@dataclass
class _Fitter:
    """One call of `fit` after its arguments have been read: train, choose, refit."""

    problem: Problem
    settings: Settings
    control: _Control
    table: Candidates | None
    interrupt: Interrupt
    plan: Plan | None = None
    rates: Array | None = None
    solver_reason: str = "interrupted before it was chosen"
    how: list[str] = field(default_factory=list)  # what the trainers on the GPU say of themselves

    def prepare(self) -> None:
        """What may be interrupted without a loss: the trainers, unless their learning rates are to be found first."""
        control = self.control
        monitor = None if control.stopping is None else control.stopping.monitor
        if monitor == "held_out" and self.problem.folds is None:
            raise ValueError("early_stopping: got monitor='held_out' with no splits, wanted 'train', or folds")
        if monitor == "auto":
            assert control.stopping is not None
            known = "train" if self.problem.folds is None else "held_out"
            control.stopping = replace(control.stopping, monitor=known)
        adaptive = any(row["schedule"] == "adaptive" for row in self.settings.params)
        by_training = adaptive if control.stopping is None else control.stopping.monitor == "train"
        self.settings.track_train_loss = by_training or control.track_train_loss
        if all(row["learning_rate"] != "auto" for row in self.settings.params):
            self._plan()

    def run(self) -> Run:
        if self.problem.folds is None:
            run = self.collect(None, None, "done")
        else:
            if self.plan is None and not self._plan():
                return self.collect(None, None, self._why())
            assert self.plan is not None
            shape = (len(self.settings.params), self.problem.n_splits)
            trained = _loop.train(self.plan, self.settings, self._watch(self.plan, shape), self.interrupt, shape)
            run = self.collect(self.plan, trained, trained.status)
            self._warn_diverged(run)
            self._warn_short(run.arrivals, run.n_splits)
            self._warn_unscored(run)
            if run.interrupted:
                return run
            self._choose(run)
            if run.n_candidates > 1 and not run.ranked:
                if self.control.refit:
                    warnings.warn(
                        "every candidate's mean held-out loss is NaN (diverged models, or splits that score no row), so "
                        "there is no best one to refit",
                        RuntimeWarning,
                        stacklevel=3,
                    )
                return run
        if self.control.refit:
            if self.problem.validation is not None:
                self._keep_best(run)
            else:
                self._refit(run)
        return run

    # -- training -----------------------------------------------------------------------------------------------------

    def _plan(self) -> bool:
        """Learning rates and trainers; False after an interrupt."""
        if self.problem.folds is None:
            return True
        groups = self.problem.groups()
        rates = _plan.learning_rates(self.problem, self.settings, groups, self._advance)
        if rates is None:
            return False
        self.rates = rates
        self.plan = _plan.of_splits(self.problem, self.settings, rates)
        if self.plan is not None:
            self._note_how(self.plan)
        return True

    def _note_how(self, plan: Plan) -> None:
        """Keep what each trainer says of the way it takes on the GPU, once each."""
        if self.settings.device != "cpu":
            self.how += [part.trainer.reason for part in plan.parts]

    def _device_reason(self) -> str:
        return "; ".join([self.settings.device_reason, *dict.fromkeys(self.how)])

    def _advance(self, trainer: Any, max_steps: int) -> str:
        """For range tests: a deadline in the midst of one ends it."""
        status = self.interrupt.advance(trainer, self.settings.deadline, max_steps)
        return "max_seconds" if status == "paused" and self._late() else status

    def _late(self) -> bool:
        return self.settings.deadline is not None and time.monotonic() >= self.settings.deadline

    def _why(self) -> str:
        return "interrupted" if self.interrupt.pressed else "max_seconds"

    def _watch(self, plan: Plan, shape: tuple[int, int]) -> Watch:
        control, rows = self.control, [row for row in self.settings.params for _ in range(shape[1])]
        assert self.rates is not None
        rungs = {} if control.halving is None else control.halving.rungs(shape[0], self.settings.epochs)
        return Watch(
            stopping=control.stopping,
            adaptive=np.array([row["schedule"] == "adaptive" for row in rows], np.bool_),
            factors=np.array([row["plateau_factor"] for row in rows]),
            rates=self.rates.reshape(-1),
            rungs=rungs,
            order=None if control.scoring is None or not rungs else lambda: self._order_now(plan),
            callbacks=control.callbacks,
            progress=control.progress,
            track_train_loss=self.settings.track_train_loss,
            started=control.started,
        )

    def _order_now(self, plan: Plan) -> Array:
        """For halving by `scoring`: minus the scores of the weights of this moment."""
        shape = (len(self.settings.params), self.problem.n_splits)
        nothing = np.zeros(plan.n_models, np.int64)
        trained = Trained(
            "done", 0, np.empty((0, plan.n_models)), None, np.zeros(plan.n_models), nothing, nothing,
            nothing.astype(np.uint8), np.ones(shape[0], np.bool_),
        )  # fmt: skip
        return -self._scores(self.collect(plan, trained, "done"))

    def _warn_diverged(self, run: Run) -> None:
        if run.diverged.any():
            # The frames above: this one, run, fit, the caller.
            warnings.warn(
                f"{int(run.diverged.sum())} of {len(run.diverged)} models diverged (Run.diverged says which), and "
                f"their held-out loss is NaN; {self._remedy()}",
                RuntimeWarning,
                stacklevel=4,
            )

    def _warn_unscored(self, run: Run) -> None:
        """Of models at their optimum whose held-out rows cost more than a number holds."""
        if run.arrivals is None or run.interrupted or not self.settings.check_finite:
            return
        lost = np.isnan(run.held_out_loss) & ~run.diverged.reshape(run.held_out_loss.shape)
        scored = self.problem.folds if self.problem.validation is None else self.problem.validation
        assert scored is not None
        for split in np.flatnonzero(lost.any(axis=0)).tolist():
            weight = self.problem.sample_weight if self.problem.validation is None else self.problem.validation.sample_weight
            rows = scored.score_indices(split)
            if len(rows) and (weight is None or (weight[rows] > 0).any()):
                # The frames above: this one, run, fit, the caller.
                warnings.warn(
                    f"the held-out losses of {int(lost[:, split].sum())} models of split {split} are not finite in "
                    f"{run.coef.dtype}: scale y, or look for rows far from the others",
                    RuntimeWarning,
                    stacklevel=4,
                )
                return

    def _remedy(self) -> str:
        if self.settings.params[0]["solver"] in _optimum.SOLVERS:
            return "the loss at their first weights, or a sum of squares of X, is not finite: scale X and y, or see coef_init"
        return _REMEDY

    def _warn_short(self, arrivals: dict[str, Array] | None, n_splits: int) -> None:
        if arrivals is None:
            return
        assert self.problem.X is not None
        for text in _convergence.warnings_of(arrivals, n_splits, self.settings, self.problem.X.dtype):
            # The frames above: this one, run (or _refit), fit, the caller.
            warnings.warn(text, _convergence.ConvergenceWarning, stacklevel=4 if n_splits else 5)

    # -- choice -------------------------------------------------------------------------------------------------------

    def _choose(self, run: Run) -> None:
        """Scores where they decide, the best candidate's solver and loss, and warnings about the choice."""
        if self.control.scoring is not None:
            run.split_scores = self._scores(run)
        best = self.settings.params[run.best_candidate]
        run.solver, run.loss = best["solver"], best["loss"]
        if run.n_candidates < 2 or not run.ranked:
            return
        texts = [_choose.edge_warning(self.table, run.best_candidate)]
        if run.n_splits <= _NOISE_SPLITS:
            texts.append(_choose.noise_warning(*_choose.fold_noise(run, run.best_candidate)))
        for text in texts:
            if text is not None:
                warnings.warn(text, gradfold.ChoiceWarning, stacklevel=4)

    def _scores(self, run: Run) -> Array:
        """(n_candidates, n_splits) scores, each candidate by what its own loss makes of raw predictions."""
        scoring = self.control.scoring
        assert scoring is not None
        return _held_out.scores(run, scoring, n_threads=self.settings.n_threads)

    # -- the model to use ---------------------------------------------------------------------------------------------

    def _keep_best(self, run: Run) -> None:
        """With `validation_data` the best model has trained on all rows already."""
        assert self.plan is not None and self.rates is not None
        m = run.best_candidate
        part = next(part for part in self.plan.parts if m in part.models)
        own = int(np.flatnonzero(part.models == m)[0])
        epochs = run.best_epoch if self._restores() else run.epochs_trained
        self._fitted(run, part.trainer, own, int(epochs[m, 0]), float(self.rates[m, 0]))

    def _refit(self, run: Run) -> None:
        problem, control = self.problem, self.control
        row = self.settings.params[run.best_candidate if problem.folds is not None else 0]
        # Without splits to watch, a rate that falls on a plateau falls by the training loss, whatever early stopping monitored.
        tracks = row["schedule"] == "adaptive" or (problem.folds is None and self.settings.track_train_loss)
        settings = replace(self.settings, params=[row], track_train_loss=tracks)
        try:
            self.interrupt.raising = row["learning_rate"] != "auto" and not self.interrupt.pressed
            rates = _plan.learning_rates(problem, settings, [[REFIT]], self._advance)
            if rates is None:
                run.stop_reason = self._why()
                return
            self.rates = rates
            plan = _plan.of_refit(problem, settings, 0, float(rates[0, 0]), _convergence.mean_of_splits(run))
            self.interrupt.raising = False
            if not self.how:  # there were no splits; else what was said of their many models stands
                self._note_how(plan)
                run.device_reason = self._device_reason()
        except Interrupted:
            run.stop_reason = "interrupted"
            return
        alone = problem.folds is None
        watch = Watch(
            stopping=control.stopping if alone else None,
            adaptive=np.array([row["schedule"] == "adaptive"]),
            factors=np.array([row["plateau_factor"]]),
            rates=rates.reshape(-1),
            rungs={},
            order=None,
            callbacks=control.callbacks if alone else [],
            progress=control.progress if alone else None,
            track_train_loss=tracks,
            started=control.started,
        )
        trained = _loop.train(plan, settings, watch, self.interrupt, (1, 1), run._refit_epochs())
        if trained.status != "done":  # else what ended the splits' training stands
            run.stop_reason = trained.status
        epochs = trained.best_epoch if self._restores() else trained.epochs_trained
        self._fitted(run, plan.parts[0].trainer, 0, int(epochs[0]), float(rates[0, 0]))
        if run.refit_arrival is not None:
            self._warn_short({name: values.reshape(1) for name, values in run.refit_arrival.items()}, 0)
        if run.best_diverged:
            trainer = plan.parts[0].trainer
            where = ""
            if run.refit_arrival is None:
                where = f" at epoch {int(trainer.diverged_epoch[0])}, batch {int(trainer.diverged_batch[0])} (both counted from 0)"
            # The frames above: this one, run, fit, the caller.
            warnings.warn(
                f"the refit diverged{where} and keeps its last finite weights; {self._remedy()}",
                RuntimeWarning,
                stacklevel=4,
            )

    def _restores(self) -> bool:
        return self.control.stopping is not None and self.control.stopping.restore_best

    def _fitted(self, run: Run, trainer: Any, own: int, epochs: int, rate: float) -> None:
        """Take model `own` of a trainer as the one to use."""
        run.best_coef = np.array(trainer.coef()[own])
        run.best_intercept = np.array(trainer.intercept()[own]) if self.problem.outputs else float(trainer.intercept()[own])
        run.best_steps = int(trainer.steps()[own])
        run.best_diverged = bool(trainer.diverged_epoch[own] >= 0)
        run.best_epochs = epochs
        run.settings["refit_learning_rate"] = None if np.isnan(rate) else rate
        split = 0 if self.problem.validation is not None else REFIT
        if self.problem.filled is not None:
            run.fill = self.problem.fill(split)
        if self.problem.class_weight is not None:
            run.class_weight = self.problem.factors(split)
        if isinstance(trainer, _optimum.Trainer):
            run.refit_arrival = {name: np.array(values[own]) for name, values in trainer.arrivals.items()}
        elif not run.best_diverged:
            run._state = _partial.state_of(trainer, own)

    # -- the Run ------------------------------------------------------------------------------------------------------

    def _solver_reason(self, plan: Plan | None) -> str:
        """Why this solver, and which way it took where it has several."""
        ways = [] if plan is None else [getattr(part.trainer, "solver_reason", "") for part in plan.parts]
        return "; ".join(dict.fromkeys(filter(None, (self.solver_reason, *ways))))

    def collect(self, plan: Plan | None, trained: Trained | None, reason: str) -> Run:
        """The Run of a training, or, without one, of models that have not moved."""
        problem, settings = self.problem, self.settings
        shape = (len(settings.params), problem.n_splits)
        n_models = shape[0] * shape[1]
        arrivals = None
        if plan is not None and trained is not None:
            coef, intercept = plan.gather(lambda t: t.coef()), plan.gather(lambda t: t.intercept())
            steps = plan.gather(lambda t: t.steps())
            diverged_epoch = plan.gather(lambda t: np.array(t.diverged_epoch))
            diverged_batch = plan.gather(lambda t: np.array(t.diverged_batch))
            if isinstance(plan.parts[0].trainer, _optimum.Trainer):
                arrivals = _convergence.gather(plan)
        else:
            n_features, kind = (0, np.dtype(np.float64)) if problem.X is None else (problem.X.shape[1], problem.X.dtype)
            outputs = problem.outputs
            coef, intercept = np.zeros((n_models, *outputs, n_features), kind), np.zeros((n_models, *outputs), kind)
            if n_models and problem.coef_init is not None:
                coef[:] = problem.coef_init
            if n_models and problem.intercept_init is not None:
                intercept[:] = problem.intercept_init
            steps = np.zeros(n_models, np.int64)
            diverged_epoch, diverged_batch = np.full((2, n_models), -1, np.int64)
            codes = np.full(n_models, REASONS.index(reason), np.uint8)
            nothing = np.zeros(n_models, np.int64)
            trained = Trained(
                reason, 0, np.empty((0, n_models)), None, np.full(n_models, np.nan), nothing, nothing, codes,
                np.ones(shape[0], np.bool_),
            )  # fmt: skip
        data = None
        if problem.X is not None and problem.target is not None:
            data = (problem.X, problem.target.y, problem.sample_weight)
        first = settings.params[0]
        train_history = None if trained.train_history is None else trained.train_history.reshape(trained.epochs, *shape)
        rates = self.rates if self.rates is not None and self.rates.shape == shape else np.full(shape, np.nan)
        return Run(
            feature_names=problem.feature_names,
            candidates=self.table,
            params=_shown(settings.params, self.table),
            loss=problem.loss,
            solver=first["solver"],
            solver_reason=self._solver_reason(plan),
            settings={
                "epochs": None if first["solver"] in _optimum.SOLVERS else settings.epochs,
                "max_iter": settings.max_iter,
                "tol": settings.tol,
                "batch_size": None if first["solver"] in _optimum.SOLVERS else settings.batch_size,
                "batch_scaling": settings.batch_scaling,
                "shuffle": settings.shuffle,
                "seed": settings.seed,
                "fit_intercept": settings.fit_intercept,
                "standardize": settings.standardize,
                "check_finite": settings.check_finite,
                "n_threads": settings.n_threads,
                "early_stopping": _optional(self.control.stopping, asdict),
                "halving": _optional(self.control.halving, asdict),
                "sample_weight": problem.sample_weight is not None,
                "coef_init": problem.coef_init is not None,
                "missing": "error" if problem.filled is None else "mean",
                "validation_data": problem.validation is not None,
                "n_rows": None if problem.X is None else len(problem.X),
                "dtype": coef.dtype.name,
            },
            classes=None if problem.target is None else problem.target.classes,
            coef=coef,
            intercept=intercept,
            steps=steps,
            history=trained.history.reshape(len(trained.history), *shape),
            held_out_loss=trained.held_out.reshape(shape),
            diverged_epoch=diverged_epoch,
            diverged_batch=diverged_batch,
            best_epoch=trained.best_epoch.reshape(shape),
            epochs_trained=trained.epochs_trained.reshape(shape),
            stop_codes=trained.reason.reshape(shape),
            survived=trained.survived,
            learning_rate=rates,
            train_history=train_history,
            scoring=self.control.scoring,
            choose=self.control.choose,
            stop_reason=reason,
            version=gradfold.__version__,
            folds=problem.folds,
            scored=problem.validation,
            data=data,
            split_fill=problem.split_fills() if plan is not None else None,
            device=settings.device,
            device_reason=self._device_reason(),
            arrivals=arrivals,
        )


def _params(
    candidates: object, keywords: dict[str, Any]
) -> tuple[list[dict[str, Any]], Candidates | None]:
    """Every candidate's full parameters, and the grid itself."""
    table = None
    rows = [dict(keywords)]
    if candidates is not None:
        if not isinstance(candidates, Candidates):
            if not isinstance(candidates, Iterable) or isinstance(candidates, (str, bytes, Mapping)):
                raise TypeError(
                    f"candidates: got {_check.describe(candidates)}, wanted Candidates, as gradfold.grid makes them"
                )
            candidates = Candidates(candidates)
        table = candidates
        rows = [{**keywords, **row} for row in candidates]
    for row in rows:
        if row["schedule"] == "optimal" and row["l2"] == 0:
            raise ValueError("l2: got 0 with schedule='optimal', which divides by it; wanted a number above 0")
    return rows, table


def _settle_rates(params: list[dict[str, Any]]) -> None:
    """Put each solver's learning rate in the place of None."""
    for row in params:
        if row["learning_rate"] is None and row["solver"] not in _optimum.SOLVERS:
            row["learning_rate"] = _plan.LEARNING_RATES[row["solver"]]


def _first_loss(params: list[dict[str, Any]]) -> str:
    """The loss by which y is read."""
    return next((str(row["loss"]) for row in params if row["loss"] != "auto"), "auto")


def _settle_losses(params: list[dict[str, Any]], problem: Problem, control: _Control) -> None:
    """Put the target's loss in the place of "auto", and check that the losses can be compared."""
    for row in params:
        if row["loss"] == "auto":
            row["loss"] = problem.loss
    names = list(dict.fromkeys(str(row["loss"]) for row in params))
    if len(names) == 1:
        return
    if not any(all(name in kind for name in names) for kind in (metrics.BINARY, metrics.REGRESSION)):
        raise ValueError(
            f"loss: got {', '.join(map(repr, names))} among the candidates, wanted losses of binary classifiers only, or "
            "of regressions only"
        )
    if control.scoring is None:
        raise ValueError(
            f"scoring: got None with the losses {', '.join(map(repr, names))}, whose values cannot be compared; wanted a "
            "name of gradfold.metrics.SCORINGS"
        )


def _shown(params: list[dict[str, Any]], table: Candidates | None) -> list[dict[str, Any]]:
    """What `Run.params` says of each candidate: what it may differ in, and what is not as by default."""
    own = () if table is None else table.names
    always = ("l1", "l2", "learning_rate", "schedule")
    elsewhere = ("batch_size", "solver", "loss")  # in Run.settings, Run.solver and Run.loss
    # What the table does not name is the same for all.
    names = [
        name
        for name in DEFAULTS
        if name in always or name in own or (name not in elsewhere and params[0][name] != DEFAULTS[name])
    ]
    widened = [name for name in DEFAULTS if name in names or name == "loss_epsilon"]
    return [{name: row[name] for name in (widened if row["loss"] in _plan.USE_LOSS_EPSILON else names)} for row in params]


def _optional(value: Any, read: Callable[[Any], Any]) -> Any:
    return None if value is None else read(value)
