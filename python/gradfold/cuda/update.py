"""One optimiser step of a panel of models by a thread block: csrc/update/update-inl.h with models over threads.

Scalars of a model are computed in float64 by four threads, a quarter each, and rounded once; parameters are shared out over
all threads. A step stores as it goes and keeps the values it replaces; a model that got a value which is not finite has its
own put back.
"""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace

import numpy as np

from gradfold.cuda import _driver
from gradfold.cuda import maths as _maths
from gradfold.cuda._driver import (
    arithmetic,
    cuda,
    device,
    float64,
    global_address,
    int32,
    load_at,
    opaque,
    store_at,
    vector_reader_at,
    vector_writer_at,
)
from gradfold.cuda.tiles import FEATURE_CHUNK, Shape

SOLVERS = ("sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam", "adamw")
SCHEDULES = ("constant", "cosine", "inverse_scaling", "exponential", "step", "optimal", "adaptive")

# Float64 numbers of a model, [field][lane].
FIELDS = (
    "learning_rate", "rate_scale", "l1", "l2", "mean_weight", "updates", "beta1_power", "beta2_power", "train_loss", "train_weight",
    "momentum", "beta1", "beta2", "epsilon", "rho", "weight_decay", "clip_norm", "clip_value", "average", "power_t", "decay",
    "decay_epochs", "warmup", "plateau_factor", "t0",
)  # fmt: skip
HYPER = FIELDS[10:]
F = {name: place for place, name in enumerate(FIELDS)}
DEFAULTS = {  # those of csrc/update/update.cpp
    "momentum": 0.9, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "rho": 0.99, "weight_decay": 0.01, "clip_norm": np.inf,
    "clip_value": np.inf, "average": 0.0, "power_t": 0.25, "decay": 0.9, "decay_epochs": 10.0, "warmup": 0.0,
    "plateau_factor": 0.2, "t0": 1.0,
}  # fmt: skip

# Integers of a model, [field][lane].
SPLIT, SCHEDULE, ALIVE = range(3)
# Where and when a model diverged, [field][lane], int64.
EPOCH, BATCH = range(2)

# Fixed parameters of a training, int64.
(
    T_FEATURES, T_STRIDE, T_ROWS, T_BATCH, T_LANES, T_SOLVER, T_FIT_INTERCEPT, T_STANDARDIZE, T_ANY_CLIP,
    T_ANY_CLIP_NORM, T_ANY_WARMUP, T_HAS_WEIGHT, T_WORDS, T_LOSS, T_TRACK, T_ORDER, T_SEED, T_HORIZON, T_STEPS, T_FIRST, T_SECOND,
    T_SEEN, T_OLD, T_PANEL, T_FIRST_EPOCH,
) = range(25)  # fmt: skip
N_TRAINING = 25

# Scalars of a step in shared memory, [scalar][MODELS].
(
    S_Q, S_L1, S_L2, S_RATE, S_MOMENTUM, S_INV_ROOT, S_BETA1_NEW, S_BETA2, S_BETA2_NEW, S_EPSILON, S_CLIP_FACTOR, S_CLIP_VALUE,
    S_KEPT,
) = range(13)  # fmt: skip
N_SCALARS = 13
# Flags of a step in shared memory, [flag][MODELS], and one more for the block. PLAIN: the model steps, and has no l1.
LOST, PLAIN = range(2)
N_FLAGS = 2


@cache
def schedules() -> SimpleNamespace:
    """Device functions of float64: ``rate(D, L, lane, schedule, updates, steps, horizon)``, the rate of the next update."""
    A = _driver.F64
    add, sub, mul, div, sqrt = A.add, A.sub, A.mul, A.div, A.sqrt
    maths = _maths.of("float64")
    exp, log, cos = maths.exp, maths.log, maths.cos
    ONE, HALF, PI = np.float64(1), np.float64(0.5), np.float64(float.fromhex("0x1.921fb54442d18p+1"))
    BIG, WHOLE = np.float64(float.fromhex("0x1.8p52")), np.float64(2.0**51)
    LR, L2, T0, POWER, DECAY, DECAY_EPOCHS = F["learning_rate"], F["l2"], F["t0"], F["power_t"], F["decay"], F["decay_epochs"]
    COSINE, INVERSE, EXPONENTIAL, STEP, OPTIMAL = (
        SCHEDULES.index(name) for name in ("cosine", "inverse_scaling", "exponential", "step", "optimal")
    )
    u64 = np.uint64

    @device
    def power(base, exponent):  # type: ignore[no-untyped-def]
        return exp(mul(exponent, log(base)))

    @device
    def whole(x):  # type: ignore[no-untyped-def]
        """The largest whole number that is not above x; from 2^51 on x itself."""
        nearest = sub(add(x, BIG), BIG)
        below = sub(nearest, ONE) if x < nearest else nearest
        return below if x < WHOLE else x

    @device
    def rate(D, L, lane, schedule, t, steps, horizon):  # type: ignore[no-untyped-def]
        base = D[u64(LR * L + lane)]
        if schedule == COSINE:
            part = div(t, horizon)
            part = part if part < ONE else ONE
            return mul(mul(base, HALF), add(ONE, cos(mul(PI, part))))
        if schedule == INVERSE:
            return div(base, power(add(t, D[u64(T0 * L + lane)]), D[u64(POWER * L + lane)]))
        if schedule == EXPONENTIAL:
            return mul(base, power(D[u64(DECAY * L + lane)], div(t, steps)))
        if schedule == STEP:
            falls = whole(div(t, mul(steps, D[u64(DECAY_EPOCHS * L + lane)])))
            return mul(base, power(D[u64(DECAY * L + lane)], falls))
        if schedule == OPTIMAL:
            alpha = D[u64(L2 * L + lane)]
            typical = sqrt(div(ONE, sqrt(alpha)))
            t0 = div(ONE, mul(typical, alpha))
            return div(ONE, mul(alpha, add(t0, t)))
        return base

    return SimpleNamespace(rate=rate)


@cache
def of(shape: Shape) -> SimpleNamespace:
    """``step``, the device function of a block."""
    A, D64 = arithmetic(shape.dtype), _driver.F64
    T, fma, add, sub, mul, div, sqrt = A.T, A.fma, A.add, A.sub, A.mul, A.div, A.sqrt
    fma64, add64, sub64, mul64, div64, sqrt64 = D64.fma, D64.add, D64.sub, D64.mul, D64.div, D64.sqrt
    rate_of = schedules().rate
    MODELS, THREADS = shape.models, shape.threads
    PER = THREADS // MODELS  # threads of a model
    ITEM = np.dtype(shape.dtype).itemsize
    SIDE = shape.vector  # models that a thread steps side by side, by loads and stores of 16 bytes
    ROWS = THREADS * SIDE // MODELS  # features that the block's threads step at a time, then
    read_side, write_side, read_two = vector_reader_at(SIDE), vector_writer_at(SIDE), vector_reader_at(2)
    kind = A.type
    ZERO, ONE, NAN = T(0), T(1), T(np.nan)
    ZERO64, ONE64, INF64, NAN64 = np.float64(0), np.float64(1), np.float64(np.inf), np.float64(np.nan)
    MOST = np.float64(0.999 * float(np.finfo(shape.dtype).max))
    SGD, MOMENTUM, NESTEROV, ADAGRAD, RMSPROP, ADAM, ADAMW = range(7)
    u64, u32 = np.uint64, np.uint32
    (LR, SCALE, L1, L2, MEAN_WEIGHT, UPDATES, POWER1, POWER2, TRAIN_LOSS, TRAIN_WEIGHT, H_MOMENTUM, H_BETA1, H_BETA2, H_EPSILON, H_RHO,
     H_DECAY, H_CLIP_NORM, H_CLIP_VALUE) = range(18)  # fmt: skip
    H_WARMUP = F["warmup"]

    @device
    def shrink(w, tau):  # type: ignore[no-untyped-def]
        """Towards 0 by tau."""
        if tau < w:
            return sub(w, tau)
        return add(w, tau) if w < -tau else ZERO

    @device
    def scalars(part, P, D, N, lane, m, count, out, flags):  # type: ignore[no-untyped-def]
        """A quarter of those of one model, so that four threads have their divisions beside each other: all others wait for them.

        Updates and powers after the step are the caller's to store.
        """
        L = P[u64(T_LANES)]
        solver = P[u64(T_SOLVER)]
        adam = solver == ADAM or solver == ADAMW
        squares = solver == ADAGRAD or solver == RMSPROP
        if part == 0:
            out[u64(S_Q * MODELS + m)] = T(div64(ONE64, mul64(float64(count), D[u64(MEAN_WEIGHT * L + lane)])))
            out[u64(S_CLIP_FACTOR * MODELS + m)] = ONE
            out[u64(S_CLIP_VALUE * MODELS + m)] = T(D[u64(H_CLIP_VALUE * L + lane)])
        elif part == 1:
            updates = D[u64(UPDATES * L + lane)]
            steps = float64(P[u64(T_STEPS)])
            lr = rate_of(D, L, lane, N[u64(SCHEDULE * L + lane)], updates, steps, float64(P[u64(T_HORIZON)]))
            if P[u64(T_ANY_WARMUP)] != 0:
                reached = div64(add64(updates, ONE64), mul64(D[u64(H_WARMUP * L + lane)], steps))
                lr = mul64(lr, reached if reached < ONE64 else ONE64)
            lr = mul64(lr, D[u64(SCALE * L + lane)])
            l1 = D[u64(L1 * L + lane)]
            flags[u64(PLAIN * MODELS + m)] = 0 if l1 > ZERO64 else 1
            out[u64(S_L1 * MODELS + m)] = T(l1 if adam or squares else mul64(lr, l1))
            out[u64(S_KEPT * MODELS + m)] = T(fma64(-lr, D[u64(H_DECAY * L + lane)], ONE64))
            if adam:
                power1 = mul64(D[u64(POWER1 * L + lane)], D[u64(H_BETA1 * L + lane)])
                lr = div64(lr, sub64(ONE64, power1))
            out[u64(S_RATE * MODELS + m)] = T(lr)
        elif part == 2:
            if adam:
                power2 = mul64(D[u64(POWER2 * L + lane)], D[u64(H_BETA2 * L + lane)])
                out[u64(S_INV_ROOT * MODELS + m)] = T(div64(ONE64, sqrt64(sub64(ONE64, power2))))
        else:
            out[u64(S_L2 * MODELS + m)] = T(D[u64(L2 * L + lane)])
            out[u64(S_EPSILON * MODELS + m)] = T(D[u64(H_EPSILON * L + lane)])
            out[u64(S_MOMENTUM * MODELS + m)] = T(D[u64(H_MOMENTUM * L + lane)])
            if squares:
                rho = D[u64(H_RHO * L + lane)]
                out[u64(S_BETA2 * MODELS + m)] = T(rho if solver == RMSPROP else ONE64)
                out[u64(S_BETA2_NEW * MODELS + m)] = T(sub64(ONE64, rho) if solver == RMSPROP else ONE64)
            if adam:
                beta2 = D[u64(H_BETA2 * L + lane)]
                out[u64(S_BETA1_NEW * MODELS + m)] = T(sub64(ONE64, D[u64(H_BETA1 * L + lane)]))
                out[u64(S_BETA2 * MODELS + m)] = T(beta2)
                out[u64(S_BETA2_NEW * MODELS + m)] = T(sub64(ONE64, beta2))

    @device
    def gradient_of(P, M, split, f, total, total_intercept):  # type: ignore[no-untyped-def]
        """A parameter's gradient sum, rounded once; standardised where that is asked for. M: [mean, scale, ratio][split][feature]."""
        n_features = P[u64(T_FEATURES)]
        if P[u64(T_STANDARDIZE)] == 0 or f == n_features:
            return T(total)
        at = split * n_features + f
        step = P[u64(T_STANDARDIZE)] * n_features  # how many splits there are
        scale = M[u64(step + at)]
        if scale < ZERO64:  # what is left of a constant column is rounding noise
            return ZERO
        return T(div64(fma64(-M[u64(at)], total_intercept, total), abs(scale)))

    @device
    def clip_factor(P, D, M, lane, split, m, G, g_at, q):  # type: ignore[no-untyped-def]
        """clip_norm over the norm of the mean gradient, where that is larger; squares in chunks of 256 features."""
        n_features = P[u64(T_FEATURES)]
        intercept = G[u64(g_at + n_features * MODELS + m)]
        total = ZERO64
        for f0 in range(0, n_features, FEATURE_CHUNK):
            chunk = ZERO64
            for f in range(f0, min(n_features, f0 + FEATURE_CHUNK)):
                g = float64(mul(gradient_of(P, M, split, f, G[u64(g_at + f * MODELS + m)], intercept), q))
                chunk = fma64(g, g, chunk)
            total = add64(total, chunk)
        # The sums over a model's outputs begin at +0, also where it has one.
        total = add64(ZERO64, total)
        if P[u64(T_FIT_INTERCEPT)] != 0:
            g = float64(mul(T(intercept), q))
            total = add64(total, mul64(g, g))
        most = D[u64(H_CLIP_NORM * P[u64(T_LANES)] + lane)]
        factor = ONE64
        if most < INF64:
            norm = sqrt64(total)
            if norm > most:
                factor = div64(most, norm)
            if norm == INF64:
                factor = NAN64
        return T(factor)

    @device
    def one(  # type: ignore[no-untyped-def]
        P, S, to, M, scalar, m, split, shrinks, f, total, intercept, w0, u, v, n_features, solver, extra, q, rate, l2,
        inv_root, beta1_new, beta2, beta2_new, epsilon, lost,
    ):  # fmt: skip
        """Steps a parameter: its old values to where such are kept, its new ones in their place.

        `to`: addresses of weight, first and second, and of where the old ones go. What most steps read comes as numbers: after a
        store the compiler would load it from memory again. `extra`: standardize or clipping. Returns `lost`, or NaN where anything
        new is not finite: 0 times such a number is NaN.
        """
        w_at, u_at, v_at, old_w, old_u, old_v = to
        penalty = f < n_features
        g = T(total)
        if extra:
            g = gradient_of(P, M, split, f, total, intercept)
        g = mul(g, q)
        tau = scalar[u64(S_L1 * MODELS + m)] if shrinks else ZERO
        store_at(S, old_w, w0)
        if extra and P[u64(T_ANY_CLIP)] != 0:
            lost = fma(g, ZERO, lost)  # clipping would hide an infinity
            g = mul(g, scalar[u64(S_CLIP_FACTOR * MODELS + m)])
            most = scalar[u64(S_CLIP_VALUE * MODELS + m)]
            g = most if most < g else g
            g = -most if g < -most else g
        if penalty:
            g = fma(l2, w0, g)
            if solver == ADAMW:
                w0 = mul(scalar[u64(S_KEPT * MODELS + m)], w0)
        w = w0
        if solver == SGD:
            w = fma(-rate, g, w0)
        elif solver == MOMENTUM or solver == NESTEROV:
            store_at(S, old_u, u)
            u = fma(scalar[u64(S_MOMENTUM * MODELS + m)], u, g)
            store_at(S, u_at, u)
            lost = fma(u, ZERO, lost)
            w = fma(-rate, fma(scalar[u64(S_MOMENTUM * MODELS + m)], u, g) if solver == NESTEROV else u, w0)
        else:
            store_at(S, old_v, v)
            v = fma(mul(beta2_new, g), g, mul(beta2, v))
            store_at(S, v_at, v)
            lost = fma(v, ZERO, lost)
            d = ZERO
            if solver == ADAM or solver == ADAMW:
                store_at(S, old_u, u)
                u = fma(beta1_new, sub(g, u), u)
                store_at(S, u_at, u)
                lost = fma(u, ZERO, lost)
                d = fma(sqrt(v), inv_root, epsilon)
                w = fma(-rate, div(u, d), w0)
            else:
                d = add(sqrt(v), epsilon)
                w = fma(-rate, div(g, d), w0)
            if penalty and shrinks:
                tau = mul(div(rate, d), tau)
        if penalty and shrinks:
            w = shrink(w, tau)
        store_at(S, w_at, w)
        lost = fma(w, ZERO, lost)
        if extra and P[u64(T_STANDARDIZE)] != 0 and penalty:
            # Still finite on the scale of X: a thousandth of room for the roundings of what is seen.
            scale = abs(M[u64((P[u64(T_STANDARDIZE)] + split) * n_features + f)])
            lost = lost if abs(float64(w)) <= mul64(MOST, scale) else NAN
        return lost

    @device
    def read(S, G, W, U, V, sums, f, height, adam, w, u, v, g):  # type: ignore[no-untyped-def]
        """Feature f of a thread's models, register tiles: weights, firsts, seconds and gradient sums; nothing beyond the last."""
        if f < height:
            by = u64(u32(f)) * u64(MODELS * ITEM)
            read_side(w, 0, S, u64(W + by))
            if adam:
                read_side(u, 0, S, u64(U + by))
                read_side(v, 0, S, u64(V + by))
            for k in range(0, SIDE, 2):
                read_two(g, k, G, u64(sums + u64(u32(f)) * u64(MODELS * 8) + u64(k * 8)))

    @device
    def plain(S, G, W, U, V, sums, kept, first_f, height, n_features, adam, scalar, m, lost):  # type: ignore[no-untyped-def]
        """Steps a thread's features of models m to m + SIDE - 1 by sgd or adam without l1, clipping or standardising: what `one`
        does, some side by side. `lost`: as there, of each model.

        Reads the next feature while it computes one. A square root and a quotient take their time, in which others begin.
        """
        w, u, v, x, g = (
            cuda.local.array(SIDE, kind), cuda.local.array(SIDE, kind), cuda.local.array(SIDE, kind), cuda.local.array(SIDE, kind),
            cuda.local.array(SIDE, float64),
        )  # fmt: skip
        next_w, next_u, next_v, next_g = (
            cuda.local.array(SIDE, kind), cuda.local.array(SIDE, kind), cuda.local.array(SIDE, kind), cuda.local.array(SIDE, float64),
        )  # fmt: skip
        for k in range(SIDE):
            lost[k], next_u[k], next_v[k] = ZERO, ZERO, ONE
        read(S, G, W, U, V, sums, first_f, height, adam, next_w, next_u, next_v, next_g)
        for f in range(first_f, height, ROWS):
            for k in range(SIDE):
                w[k], u[k], v[k], g[k] = next_w[k], next_u[k], next_v[k], next_g[k]
            read(S, G, W, U, V, sums, f + ROWS, height, adam, next_w, next_u, next_v, next_g)
            by = u64(u32(f)) * u64(MODELS * ITEM)
            w_at, u_at, v_at = u64(W + by), u64(U + by), u64(V + by)
            write_side(S, u64(w_at + kept), w, 0)
            for k in range(SIDE):
                x[k] = mul(T(g[k]), scalar[u64(S_Q * MODELS + m + k)])
                if f < n_features:
                    x[k] = fma(scalar[u64(S_L2 * MODELS + m + k)], w[k], x[k])
            if adam:
                write_side(S, u64(u_at + kept), u, 0)
                write_side(S, u64(v_at + kept), v, 0)
                for k in range(SIDE):
                    beta2, beta2_new = scalar[u64(S_BETA2 * MODELS + m + k)], scalar[u64(S_BETA2_NEW * MODELS + m + k)]
                    v[k] = fma(mul(beta2_new, x[k]), x[k], mul(beta2, v[k]))
                    u[k] = fma(scalar[u64(S_BETA1_NEW * MODELS + m + k)], sub(x[k], u[k]), u[k])
                    lost[k] = fma(v[k], ZERO, fma(u[k], ZERO, lost[k]))
                write_side(S, u_at, u, 0)
                write_side(S, v_at, v, 0)
                for k in range(SIDE):
                    v[k] = fma(sqrt(v[k]), scalar[u64(S_INV_ROOT * MODELS + m + k)], scalar[u64(S_EPSILON * MODELS + m + k)])
                for k in range(SIDE):
                    x[k] = div(u[k], v[k])
            for k in range(SIDE):
                w[k] = fma(-scalar[u64(S_RATE * MODELS + m + k)], x[k], w[k])
                lost[k] = fma(w[k], ZERO, lost[k])
            write_side(S, w_at, w, 0)

    @device
    def plain_group(flags, first):  # type: ignore[no-untyped-def]
        """Whether all models from `first` on that a thread steps side by side may be."""
        every = 1
        for k in range(SIDE):
            every &= flags[u64(PLAIN * MODELS + first + k)]
        return every != 0

    @device
    def step(tid, panel, P, S, D, N, Z, M, G, g_at, count, c_at, epoch, batch, scalar, flags, losses, weights):  # type: ignore[no-untyped-def]
        """Ends a batch of a panel. Begins with a barrier; whoever reads what it wrote needs another.

        S: weights and what the solver keeps, arrays of [panel][feature + 1][MODELS]; D, N, Z: numbers of models; G: the batch's
        float64 gradient sums, [feature + 1][MODELS] from g_at on, used up; count: training rows in the batch from c_at on.
        losses and weights: the batch's sums from c_at on, read only when they are tracked. scalar and flags are shared memory.
        """
        cuda.syncthreads()
        tid = opaque(tid)
        L = P[u64(T_LANES)]
        n_features, solver = int32(P[u64(T_FEATURES)]), int32(P[u64(T_SOLVER)])
        standardize = P[u64(T_STANDARDIZE)] != 0
        fit_intercept = P[u64(T_FIT_INTERCEPT)] != 0
        mine = panel * MODELS + tid
        m = tid % MODELS  # whose scalars this thread works on, and which it steps unless `plain` does
        lane = panel * MODELS + m
        split = N[u64(SPLIT * L + lane)]
        active = N[u64(ALIVE * L + lane)] != 0 and count[u64(c_at + m)] > 0
        if tid < MODELS:
            flags[u64(LOST * MODELS + tid)] = 0
            if not active:
                flags[u64(PLAIN * MODELS + tid)] = 0
        if active:
            for part in range(tid // MODELS, 4, PER):
                scalars(part, P, D, N, lane, m, count[u64(c_at + m)], scalar, flags)
            if tid < MODELS and P[u64(T_ANY_CLIP_NORM)] != 0:
                scalar[u64(S_CLIP_FACTOR * MODELS + m)] = clip_factor(
                    P, D, M, lane, split, m, G, g_at, scalar[u64(S_Q * MODELS + m)]
                )
        if tid == 0:
            flags[u64(N_FLAGS * MODELS)] = 0
        cuda.syncthreads()

        base = panel * P[u64(T_PANEL)] + m
        first_at, second_at, old_at = P[u64(T_FIRST)], P[u64(T_SECOND)], P[u64(T_OLD)]
        adam = solver == ADAM or solver == ADAMW
        has_second = solver >= ADAGRAD
        has_first = adam or solver == MOMENTUM or solver == NESTEROV
        extra = standardize or P[u64(T_ANY_CLIP)] != 0
        side_by_side = (solver == SGD or solver == ADAM) and not extra
        height = n_features + (1 if fit_intercept else 0)
        # Addresses: as indices each access would take four more instructions, and a parameter has ten.
        panel_at = panel * P[u64(T_PANEL)]
        W = u64(global_address(S, u64(panel_at)))
        U, V = u64(global_address(S, u64(first_at + panel_at))), u64(global_address(S, u64(second_at + panel_at)))
        sums, kept = u64(global_address(G, u64(g_at))), u64(old_at) * u64(ITEM)
        if side_by_side:
            first = tid % (MODELS // SIDE) * SIDE
            if plain_group(flags, first):
                some = cuda.local.array(SIDE, kind)
                by = u64(u32(first))
                plain(
                    S, G, u64(W + by * u64(ITEM)), u64(U + by * u64(ITEM)), u64(V + by * u64(ITEM)), u64(sums + by * u64(8)), kept,
                    int32(tid // (MODELS // SIDE)), height, n_features, solver == ADAM, scalar, first, some,
                )  # fmt: skip
                for k in range(SIDE):
                    if some[k] != some[k]:
                        flags[u64(LOST * MODELS + first + k)] = 1
                        flags[u64(N_FLAGS * MODELS)] = 1
        if active and not (side_by_side and plain_group(flags, m // SIDE * SIDE)):
            shrinks = flags[u64(PLAIN * MODELS + m)] == 0
            intercept = G[u64(g_at + n_features * MODELS + m)]
            q, l2, rate = scalar[u64(S_Q * MODELS + m)], scalar[u64(S_L2 * MODELS + m)], scalar[u64(S_RATE * MODELS + m)]
            inv_root, epsilon = scalar[u64(S_INV_ROOT * MODELS + m)], scalar[u64(S_EPSILON * MODELS + m)]
            beta1_new, beta2 = scalar[u64(S_BETA1_NEW * MODELS + m)], scalar[u64(S_BETA2 * MODELS + m)]
            beta2_new = scalar[u64(S_BETA2_NEW * MODELS + m)]
            lost = ZERO
            for f in range(tid // MODELS, height, PER):
                at = u64(u32(f)) * u64(MODELS) + u64(u32(m))
                w, u, v = u64(W + at * u64(ITEM)), u64(U + at * u64(ITEM)), u64(V + at * u64(ITEM))
                total = load_at(G, u64(sums + at * u64(8)))
                first_, second = ZERO, ZERO
                if has_first:
                    first_ = load_at(S, u)
                if has_second:
                    second = load_at(S, v)
                lost = one(
                    P, S, (w, u, v, u64(w + kept), u64(u + kept), u64(v + kept)), M, scalar, m, split, shrinks, f, total, intercept,
                    load_at(S, w), first_, second, n_features, solver, extra, q, rate, l2, inv_root, beta1_new, beta2, beta2_new,
                    epsilon, lost,
                )  # fmt: skip
            if lost != lost:
                flags[u64(LOST * MODELS + m)] = 1
                flags[u64(N_FLAGS * MODELS)] = 1
        cuda.syncthreads()
        if standardize:
            if tid < MODELS and active:
                total = ZERO64
                ratio = (2 * P[u64(T_STANDARDIZE)] + split) * n_features
                for f in range(n_features):
                    total = fma64(M[u64(ratio + f)], float64(S[u64(base + f * MODELS)]), total)
                b = float64(S[u64(base + n_features * MODELS)])
                if not abs(sub64(b, total)) <= MOST:
                    flags[u64(LOST * MODELS + tid)] = 1
                    flags[u64(N_FLAGS * MODELS)] = 1
            cuda.syncthreads()
        if active and flags[u64(N_FLAGS * MODELS)] != 0 and flags[u64(LOST * MODELS + m)] != 0:
            for f in range(tid // MODELS, n_features + (1 if fit_intercept else 0), THREADS // MODELS):
                at = base + f * MODELS
                S[u64(at)] = S[u64(old_at + at)]
                if has_first:
                    S[u64(first_at + at)] = S[u64(old_at + first_at + at)]
                if has_second:
                    S[u64(second_at + at)] = S[u64(old_at + second_at + at)]
        moves = active and flags[u64(LOST * MODELS + m)] == 0
        if tid < MODELS and active:
            if flags[u64(LOST * MODELS + tid)] != 0:
                N[u64(ALIVE * L + mine)] = 0
                Z[u64(EPOCH * L + mine)] = epoch
                Z[u64(BATCH * L + mine)] = batch
            else:
                D[u64(UPDATES * L + mine)] = add64(D[u64(UPDATES * L + mine)], ONE64)
                if adam:
                    D[u64(POWER1 * L + mine)] = mul64(D[u64(POWER1 * L + mine)], D[u64(H_BETA1 * L + mine)])
                    D[u64(POWER2 * L + mine)] = mul64(D[u64(POWER2 * L + mine)], D[u64(H_BETA2 * L + mine)])
        if P[u64(T_TRACK)] != 0 and tid < MODELS and N[u64(ALIVE * L + mine)] != 0:  # a batch that made its model diverge was not made
            D[u64(TRAIN_LOSS * L + mine)] = add64(D[u64(TRAIN_LOSS * L + mine)], losses[u64(c_at + tid)])
            D[u64(TRAIN_WEIGHT * L + mine)] = add64(D[u64(TRAIN_WEIGHT * L + mine)], weights[u64(c_at + tid)])
        if standardize:
            see(tid, P, S, M, G, g_at, base, split, m, moves)

    @device
    def see(tid, P, S, M, G, g_at, base, split, m, moves):  # type: ignore[no-untyped-def]
        """W / scale and intercept − Σ mean · (W / scale), in chunks of 256 features, where `moves`. G is used for the chunks' sums."""
        n_features, seen_at = P[u64(T_FEATURES)], P[u64(T_SEEN)]
        moments = split * n_features
        scales = (P[u64(T_STANDARDIZE)] + split) * n_features
        if moves:
            for f in range(tid // MODELS, n_features, THREADS // MODELS):
                w = div64(float64(S[u64(base + f * MODELS)]), abs(M[u64(scales + f)]))
                S[u64(seen_at + base + f * MODELS)] = T(w)
        cuda.syncthreads()
        n_chunks = (n_features + FEATURE_CHUNK - 1) // FEATURE_CHUNK
        if moves:
            for c in range(tid // MODELS, n_chunks, THREADS // MODELS):
                total = ZERO64
                for f in range(c * FEATURE_CHUNK, min(n_features, (c + 1) * FEATURE_CHUNK)):
                    total = fma64(M[u64(moments + f)], float64(S[u64(seen_at + base + f * MODELS)]), total)
                G[u64(g_at + c * MODELS + m)] = total
        cuda.syncthreads()
        if moves and tid < MODELS:
            total = ZERO64
            for c in range(n_chunks):
                total = add64(total, G[u64(g_at + c * MODELS + tid)])
            b = sub64(float64(S[u64(base + n_features * MODELS)]), total)
            S[u64(seen_at + base + n_features * MODELS)] = T(b)

    return SimpleNamespace(step=step, see=see)
