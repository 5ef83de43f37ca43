"""GPU kernels that read a row once: its norm for the loss, its statistics for the rules, its tail if it was cut off.

Sums are kept lane by lane and added up once at the end of a row.
"""

# ruff: noqa: N803, PLR0917, SIM108  # Triton knows neither structures nor all of Python's expressions

from typing import no_type_check

from mashbill.losses.triton_language import LOG_ZERO, LOWEST, NOTHING, jit, tl


@jit
@no_type_check
def _add_score(x, peak, total, soft, inv_temperature, IS_SOFT: tl.constexpr):
    """Add one score a lane to the running ``sum exp(x - peak)``, with a single exponential."""
    gap = x - peak
    away = tl.abs(gap)
    rises = gap > 0
    ratio = tl.exp(-away)
    total = tl.where(rises, total * ratio + 1, total + ratio)
    if IS_SOFT:
        ratio = tl.exp(-away * inv_temperature)
        soft = tl.where(rises, soft * ratio + 1, soft + ratio)
    return tl.maximum(peak, x), total, soft


@jit
@no_type_check
def normalise_rows(
    scores, stride_b, stride_t, counted, record, ids, starts,
    n_rows, n_positions, n_entries, n_slots, inv_temperature,
    IS_LOGPROB: tl.constexpr, IS_SOFT: tl.constexpr, N_TOPK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write fields 0 to 4 of a record.

    With ``N_TOPK > 0``, for the student: entries stored by some top-k teacher stay out, and fields 1 and 3 are the
    sums themselves, for ``complete_rows`` to go on with.
    """
    row = tl.program_id(0).to(tl.int64)
    if tl.load(counted + row) != 0:
        here = scores + (row // n_positions) * stride_b + (row % n_positions) * stride_t
        n_blocks = tl.cdiv(n_entries, BLOCK)
        peak = tl.full([BLOCK], LOWEST, tl.float32)
        least = tl.full([BLOCK], float("inf"), tl.float32)
        total = tl.zeros([BLOCK], tl.float32)
        soft = tl.zeros([BLOCK], tl.float32)
        for block in range(0, n_blocks):
            entry = block * BLOCK + tl.arange(0, BLOCK)
            inside = entry < n_entries
            x = tl.load(here + entry, mask=inside, other=-float("inf")).to(tl.float32)
            least = tl.minimum(least, tl.where(inside, x, float("inf")))
            for k in tl.static_range(N_TOPK):
                line = k * n_rows + row
                first = tl.load(starts + line * (n_blocks + 1) + block)
                last = tl.load(starts + line * (n_blocks + 1) + block + 1)
                for slot in range(first, last):
                    x = tl.where(entry == tl.load(ids + line * n_slots + slot), -float("inf"), x)
            peak, total, soft = _add_score(x, peak, total, soft, inv_temperature, IS_SOFT)
        top = tl.max(peak, 0)
        total = tl.sum(total * tl.exp(peak - top), 0)
        if IS_SOFT:
            soft = tl.sum(soft * tl.exp((peak - top) * inv_temperature), 0)
        else:
            soft = total
        floor = top + tl.log(total) + LOG_ZERO
        if IS_LOGPROB:
            floor = LOG_ZERO
        tl.store(record + row, top)
        tl.store(record + n_rows + row, tl.log(soft) if N_TOPK == 0 else soft)
        tl.store(record + 2 * n_rows + row, floor)
        tl.store(record + 3 * n_rows + row, tl.log(total) if N_TOPK == 0 else total)
        tl.store(record + 4 * n_rows + row, tl.min(least, 0))


@jit
@no_type_check
def measure_rows(
    scores, stride_b, stride_t, labels, out, n_rows, n_positions, n_entries,
    HAS_LABELS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write entropy, Gini variance, margin, largest log-probability and the label's, ``[5 N]``, in one pass."""
    row = tl.program_id(0).to(tl.int64)
    here = scores + (row // n_positions) * stride_b + (row % n_positions) * stride_t
    peak = tl.full([BLOCK], LOWEST, tl.float32)
    second = tl.full([BLOCK], LOWEST, tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    square = tl.zeros([BLOCK], tl.float32)
    slope = tl.zeros([BLOCK], tl.float32)  # sum (x - peak) exp(x - peak)
    for start in range(0, n_entries, BLOCK):
        entry = start + tl.arange(0, BLOCK)
        x = tl.load(here + entry, mask=entry < n_entries, other=-float("inf")).to(tl.float32)
        gap = x - peak
        ratio = tl.exp(-tl.abs(gap))
        rises = gap > 0
        slope = tl.where(rises, ratio * (slope - gap * total), slope + tl.where(ratio == 0, 0.0, gap * ratio))
        square = tl.where(rises, square * ratio * ratio + 1, square + ratio * ratio)
        total = tl.where(rises, total * ratio + 1, total + ratio)
        second = tl.maximum(second, tl.minimum(peak, x))
        peak = tl.maximum(peak, x)
    top = tl.max(peak, 0)
    gap = peak - top
    ratio = tl.exp(gap)
    slope = tl.sum(ratio * slope + tl.where(ratio == 0, 0.0, gap * ratio * total), 0)
    square = tl.sum(square * ratio * ratio, 0)
    total = tl.sum(total * ratio, 0)
    lane = tl.arange(0, BLOCK)
    runner_up = tl.max(tl.where(lane == tl.argmax(peak, 0), second, peak), 0)
    log_total = tl.log(total)
    label_logprob = float("nan")
    if HAS_LABELS:
        label = tl.load(labels + row)
        found = tl.load(here + label, mask=label >= 0, other=0).to(tl.float32) - top - log_total
        label_logprob = tl.where(label >= 0, tl.where(found < LOG_ZERO, LOG_ZERO, found), float("nan"))
    tl.store(out + row, log_total - slope / total)
    tl.store(out + n_rows + row, 1 - square / total / total)
    tl.store(out + 2 * n_rows + row, (1 - tl.exp(runner_up - top)) / total)
    tl.store(out + 3 * n_rows + row, -log_total)
    tl.store(out + 4 * n_rows + row, label_logprob)


@jit
@no_type_check
def _outside(
    here, row, leaving_out, peak, total, soft, ids, n_rows, n_topk, n_slots, inv_temperature, CHUNK: tl.constexpr
):  # fmt: skip
    """Add to ``sum exp(x - peak)`` over the entries nobody stored all that teacher ``leaving_out`` did not store.

    Only ever adds: one minus the stored mass would be rounding noise where little is left.
    """
    for k in range(0, n_topk):
        if k != leaving_out:
            for start in range(0, n_slots, CHUNK):
                slot = start + tl.arange(0, CHUNK)
                entry = tl.load(ids + (k * n_rows + row) * n_slots + slot, mask=slot < n_slots, other=-1)
                is_new = entry >= 0
                for other in range(0, n_topk):
                    if (other < k) | (other == leaving_out):
                        for begin in range(0, n_slots, CHUNK):
                            slot = begin + tl.arange(0, CHUNK)
                            place = ids + (other * n_rows + row) * n_slots + slot
                            theirs = tl.load(place, mask=slot < n_slots, other=-1)
                            hits = (entry[:, None] == theirs[None, :]).to(tl.int32)
                            is_new = is_new & (tl.max(hits, 1) == 0)
                x = tl.load(here + entry, mask=is_new, other=-float("inf")).to(tl.float32)
                top = tl.maximum(peak, tl.max(x, 0))
                total = total * tl.exp(peak - top) + tl.sum(tl.exp(x - top), 0)
                soft = soft * tl.exp((peak - top) * inv_temperature) + tl.sum(tl.exp((x - top) * inv_temperature), 0)
                peak = top
    return peak, total, soft


@jit
@no_type_check
def complete_rows(
    student, stride_b, stride_t, counted, ids, logprobs, log_tails, records,
    n_rows, n_positions, n_entries, n_dense, n_topk, n_slots, inv_temperature,
    IS_SHAPED: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Finish the student's record and write those of the top-k teachers; ``O(K^3 S^2)`` comparisons a row."""
    row = tl.program_id(0).to(tl.int64)
    if tl.load(counted + row) != 0:
        here = student + (row // n_positions) * stride_b + (row % n_positions) * stride_t
        nobody = tl.load(records + row)
        nobody_soft = tl.load(records + n_rows + row)
        nobody_total = tl.load(records + 3 * n_rows + row)
        peak, total, soft = _outside(
            here, row, -1, nobody, nobody_total, nobody_soft, ids, n_rows, n_topk, n_slots, inv_temperature, CHUNK
        )
        least = peak + (tl.log(total) + LOG_ZERO)
        tl.store(records + row, peak)
        tl.store(records + n_rows + row, tl.log(soft))
        tl.store(records + 3 * n_rows + row, tl.log(total))
        for k in range(0, n_topk):
            outside, total, soft = _outside(
                here, row, k, nobody, nobody_total, nobody_soft, ids, n_rows, n_topk, n_slots, inv_temperature, CHUNK
            )
            line = k * n_rows + row
            n_used = 0
            top = NOTHING
            for start in range(0, n_slots, CHUNK):
                slot = start + tl.arange(0, CHUNK)
                is_used = tl.load(ids + line * n_slots + slot, mask=slot < n_slots, other=-1) >= 0
                stored = tl.load(logprobs + line * n_slots + slot, mask=is_used, other=NOTHING)
                n_used += tl.sum(is_used.to(tl.int32), 0)
                top = tl.maximum(top, tl.max(stored, 0))
            n_left = n_entries - n_used
            log_left = tl.log(tl.maximum(n_left, 1).to(tl.float32))
            log_tail = tl.load(log_tails + line)
            has_tail = (n_left > 0) & ((log_tail <= LOG_ZERO) == 0)  # NaN has one, and shows
            share = log_tail - log_left
            rise = tl.where(share < LOG_ZERO, LOG_ZERO, share)
            is_shaped = outside > (least if IS_SHAPED else float("inf"))
            rise = tl.where(is_shaped, log_tail - tl.log(total), rise)
            log_left = tl.where(is_shaped, tl.log(soft), log_left)
            rise = tl.where(has_tail, rise, NOTHING)
            top = tl.maximum(top, rise)
            norm = tl.where(has_tail, tl.exp((rise - top) * inv_temperature + log_left), 0.0)
            for start in range(0, n_slots, CHUNK):
                slot = start + tl.arange(0, CHUNK)
                is_used = tl.load(ids + line * n_slots + slot, mask=slot < n_slots, other=-1) >= 0
                stored = tl.load(logprobs + line * n_slots + slot, mask=is_used, other=NOTHING)
                norm += tl.sum(tl.where(stored <= LOG_ZERO, 0.0, tl.exp((stored - top) * inv_temperature)), 0)
            mine = records + (1 + n_dense + k) * 7 * n_rows + row
            tl.store(mine, top)
            tl.store(mine + n_rows, tl.log(norm))
            tl.store(mine + 2 * n_rows, LOG_ZERO)
            tl.store(mine + 4 * n_rows, is_shaped.to(tl.float32))
            tl.store(mine + 5 * n_rows, outside)
            tl.store(mine + 6 * n_rows, rise)
