"""The GPU kernel that mixes the teachers and writes the gradient: one program a row, a block of entries at a time."""

# ruff: noqa: N803, N806, PLR0912, PLR0915, PLR0917, RUF005, SIM102  # Triton knows neither structures nor splicing

from typing import no_type_check

from mashbill.losses.triton_language import LOG_ZERO, NOTHING, jit, tl


@jit
@no_type_check
def _add_term(term, top, total):
    """Add a log-probability to the running ``top + log(total)``; one exponential, and nothing underflows."""
    gap = term - top
    ratio = tl.exp(-tl.abs(gap))
    return tl.maximum(top, term), tl.where(gap > 0, total * ratio + 1, total + ratio)


@jit
@no_type_check
def _pooled(
    student, entry, inside, block, row, dense, offsets, facts, shapes, ids, logprobs, starts,
    n_rows, n_blocks, n_slots, inv_temperature, N_DENSE: tl.constexpr, N_TOPK: tl.constexpr,
):  # fmt: skip
    """Return ``log sum_k w_k p_k`` of a block, with ``p_k`` softened and each its own peak and norm."""
    top = tl.full(entry.shape, NOTHING, tl.float32)
    total = tl.full(entry.shape, 1.0, tl.float32)
    for k in tl.static_range(N_DENSE + N_TOPK):
        peak, shift, floor = facts[k]
        if k < N_DENSE:
            z = tl.load(dense[k] + offsets[k] + entry, mask=inside, other=-float("inf")).to(tl.float32)
        else:
            is_shaped, outside, rise, least = shapes[k - N_DENSE]
            z = tl.where(is_shaped, tl.where(student <= least, -float("inf"), student - outside), 0.0) + rise
            z = tl.where(inside, z, -float("inf"))
            line = (k - N_DENSE) * n_rows + row
            first = tl.load(starts + line * (n_blocks + 1) + block)
            last = tl.load(starts + line * (n_blocks + 1) + block + 1)
            for slot in range(first, last):
                stored = tl.load(logprobs + line * n_slots + slot)
                z = tl.where(entry == tl.load(ids + line * n_slots + slot), stored, z)
        term = tl.where(z <= floor, NOTHING, (z - peak) * inv_temperature + shift)
        if k == 0:
            top = term
        else:
            top, total = _add_term(term, top, total)
    log_q = top
    if N_DENSE + N_TOPK > 1:
        log_q += tl.log(total)
    return tl.where(log_q < LOG_ZERO, LOG_ZERO, log_q)


@jit
@no_type_check
def _log_middle(log_p, log_q, log_beta, log_rest):
    """Return the log of ``beta q + (1 - beta) p``."""
    top, total = _add_term(log_q + log_beta, log_p + log_rest, 1.0)
    log_m = top + tl.log(total)
    return tl.where(log_m < LOG_ZERO, LOG_ZERO, log_m)


@jit
@no_type_check
def _lost_mass(
    here, peak, log_norm, row, dense, offsets, facts, shapes, ids, logprobs, starts,
    n_rows, n_entries, n_slots, inv_temperature, N_DENSE: tl.constexpr, N_TOPK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Return the target's mass on the student's floored entries; reads teachers only where there are such entries."""
    n_blocks = tl.cdiv(n_entries, BLOCK)
    lost = tl.zeros([BLOCK], tl.float32)
    for block in range(0, n_blocks):
        entry = block * BLOCK + tl.arange(0, BLOCK)
        inside = entry < n_entries
        score = tl.load(here + entry, mask=inside, other=float("inf")).to(tl.float32)
        is_floored = (score - peak) * inv_temperature - log_norm <= LOG_ZERO
        if tl.max(is_floored.to(tl.int32), 0) > 0:
            log_q = _pooled(
                score, entry, inside, block, row, dense, offsets, facts, shapes, ids, logprobs, starts,
                n_rows, n_blocks, n_slots, inv_temperature, N_DENSE, N_TOPK,
            )  # fmt: skip
            lost += tl.where(is_floored, tl.exp(log_q), 0.0)
    return tl.sum(lost, 0)


@jit
@no_type_check
def _clear(target, n_entries, BLOCK: tl.constexpr):
    """Write zeros to a row."""
    for start in range(0, n_entries, BLOCK):
        entry = start + tl.arange(0, BLOCK)
        tl.store(target + entry, tl.zeros([BLOCK], target.dtype.element_ty), mask=entry < n_entries)


@jit
@no_type_check
def mix_rows(
    student, stride_b, stride_t, gradient, gradient_b, gradient_t, counted, labels, divergence, cross_entropy,
    dense, strides_b, strides_t, ids, logprobs, starts, records, log_weights,
    n_rows, n_positions, n_entries, n_slots,
    inv_temperature, weight, label_weight, beta, log_beta, log_rest,
    KIND: tl.constexpr, N_DENSE: tl.constexpr, N_TOPK: tl.constexpr,
    HAS_LABELS: tl.constexpr, HAS_LABEL_WEIGHT: tl.constexpr, WANTS_GRADIENT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write divergence, cross-entropy and the gradient by the student's scores; ``gradient`` may be ``student``.

    ``KIND`` is ``forward_kl`` (one sweep), ``reverse_kl`` or ``js`` (one for the value, one for the gradient).
    """
    row = tl.program_id(0).to(tl.int64)
    batch, position = row // n_positions, row % n_positions
    target = gradient + batch * gradient_b + position * gradient_t
    n_blocks = tl.cdiv(n_entries, BLOCK)
    if tl.load(counted + row) != 0:
        here = student + batch * stride_b + position * stride_t
        peak = tl.load(records + row)
        log_norm = tl.load(records + n_rows + row)
        log_plain = tl.load(records + 3 * n_rows + row)
        facts, shapes, offsets = (), (), ()
        total_weight = 0.0
        for k in tl.static_range(N_DENSE + N_TOPK):
            log_weight = tl.maximum(tl.load(log_weights + k * n_rows + row), LOG_ZERO)
            total_weight += tl.exp(log_weight)
            mine = records + (k + 1) * 7 * n_rows + row
            floor = tl.load(mine + 2 * n_rows)
            facts = facts + ((tl.load(mine), log_weight - tl.load(mine + n_rows), floor),)
            if k < N_DENSE:
                offsets = offsets + (batch * strides_b[k] + position * strides_t[k],)
            else:
                is_shaped = tl.load(mine + 4 * n_rows) > 0
                outside, rise = tl.load(mine + 5 * n_rows), tl.load(mine + 6 * n_rows)
                shapes = shapes + ((is_shaped, outside, rise, peak + (log_plain + LOG_ZERO)),)
        label_moves = 0.0
        label = -1
        if HAS_LABELS:
            label = tl.load(labels + row).to(tl.int32)
            found = tl.load(here + label, mask=label >= 0, other=0).to(tl.float32) - peak - log_plain
            found = tl.where(found < LOG_ZERO, LOG_ZERO, found)
            tl.store(cross_entropy + row, tl.where(label >= 0, -found, 0.0))
            if (label >= 0) & (found > LOG_ZERO):
                label_moves = label_weight

        # What the target holds where the student's probability is at its floor does not pull.
        target_mass = total_weight
        if KIND == "forward_kl" and WANTS_GRADIENT:
            if (tl.load(records + 4 * n_rows + row) - peak) * inv_temperature - log_norm <= LOG_ZERO:
                target_mass -= _lost_mass(
                    here, peak, log_norm, row, dense, offsets, facts, shapes, ids, logprobs, starts,
                    n_rows, n_entries, n_slots, inv_temperature, N_DENSE, N_TOPK, BLOCK,
                )  # fmt: skip

        of_target = tl.zeros([BLOCK], tl.float32)
        of_student = tl.zeros([BLOCK], tl.float32)
        mean = 0.0
        N_SWEEPS: tl.constexpr = 1 if KIND == "forward_kl" or not WANTS_GRADIENT else 2
        for sweep in tl.static_range(N_SWEEPS):
            for block in range(0, n_blocks):
                entry = block * BLOCK + tl.arange(0, BLOCK)
                inside = entry < n_entries
                score = tl.load(here + entry, mask=inside, other=-float("inf")).to(tl.float32)
                log_q = _pooled(
                    score, entry, inside, block, row, dense, offsets, facts, shapes, ids, logprobs, starts,
                    n_rows, n_blocks, n_slots, inv_temperature, N_DENSE, N_TOPK,
                )  # fmt: skip
                x = score - peak
                log_p = x * inv_temperature - log_norm
                is_floored = log_p <= LOG_ZERO
                log_p = tl.where(is_floored, LOG_ZERO, log_p)
                p = tl.exp(log_p)
                slope = p
                if KIND == "forward_kl":
                    q = tl.exp(log_q)
                    of_target += q * (log_q - log_p)
                    slope = p * target_mass - tl.where(is_floored, 0.0, q)
                elif KIND == "reverse_kl":
                    height = log_p - log_q
                    if sweep == 0:
                        of_student += p * height
                    slope = p * (height - mean)
                else:
                    log_m = _log_middle(log_p, log_q, log_beta, log_rest)
                    height = log_p - log_m
                    if sweep == 0:
                        of_student += p * height
                        of_target += tl.exp(log_q) * (log_q - log_m)
                    slope = p * (height - mean) * (1 - beta)
                if WANTS_GRADIENT and sweep == N_SWEEPS - 1:
                    slope *= weight
                    if HAS_LABEL_WEIGHT:
                        slope += label_moves * (tl.exp(x - log_plain) - tl.where(entry == label, 1.0, 0.0))
                    tl.store(target + entry, slope.to(gradient.dtype.element_ty), mask=inside)
            if sweep == 0:
                mean = tl.sum(of_student, 0)
        value = mean
        if KIND == "forward_kl":
            value = tl.sum(of_target, 0)
        elif KIND == "js":
            value = beta * tl.sum(of_target, 0) + (1 - beta) * mean
        tl.store(divergence + row, value)
    else:
        tl.store(divergence + row, 0.0)
        if HAS_LABELS:
            tl.store(cross_entropy + row, 0.0)
        if WANTS_GRADIENT:
            _clear(target, n_entries, BLOCK)


@jit
@no_type_check
def scale_rows(gradient, stride_b, stride_t, factor, n_positions, n_entries, BLOCK: tl.constexpr):
    """Multiply a gradient in place by a number that only the device knows; by 1, without touching it."""
    row = tl.program_id(0).to(tl.int64)
    by = tl.load(factor)
    if by != 1:
        here = gradient + (row // n_positions) * stride_b + (row % n_positions) * stride_t
        for start in range(0, n_entries, BLOCK):
            entry = start + tl.arange(0, BLOCK)
            inside = entry < n_entries
            value = tl.load(here + entry, mask=inside, other=0).to(tl.float32) * by
            tl.store(here + entry, value.to(gradient.dtype.element_ty), mask=inside)
