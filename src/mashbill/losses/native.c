/* The dense loss on one core of a processor: two passes over a row that lies in the cache.
 *
 * Rows are done in blocks, each with a peak of its own: its exponentials are known after one look at memory, and what
 * a block's peak is below the row's becomes one factor later. Sums of a block are single precision, sums of blocks
 * double. A row's numbers depend on nothing but the row, so they are the same bit for bit with any number of threads.
 *
 * All loops are plain, for the compiler to vectorise; nothing here is specific to a processor.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#define BLOCK 512 /* sums of more would lose digits where vectors are short */
#define MOST_TEACHERS 64
#define LOG_ZERO -1e4f /* as mashbill.numerics.LOG_ZERO */
#define TINY 1.17549435e-38f
#define LOST 1e-24 /* student mass on entries whose pool underflowed that no longer moves a reverse KL */
/* Below FAINT, what a pool lacks of teachers that underflowed (1e-38 at most) shows in its log, by half a nat at most.
 */
#define FAINT 1e-32f
#define BLURRED 1e-7 /* student mass there that no longer moves a reverse KL */

enum dtype { FLOAT32, BFLOAT16, FLOAT16 };
enum kind { FORWARD_KL, REVERSE_KL, JS };

/* One block of a row: its largest entry and sums of exp(z - peak), those of `total` with (z - peak) / T. */
struct block {
    float peak, total, plain, weighted, squares;
};

/* A row of softmax(z / T). */
struct row {
    float peak, lowest;
    double total; /* of exp((z - peak) / T) */
    /* Only where they were asked for: of exp(z - peak), of that times z - peak, and of its square. */
    double plain, weighted, squares;
};

static inline float bits_to_float(uint32_t bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static inline uint32_t float_to_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return bits;
}

/* At -88 and below exp_of is 0. Volatile, or compilers turn one maximum into masks on all that follows. */
static const volatile float LOWEST = -88.0f;

static inline float held(float x, float lowest) { return x < lowest ? lowest : x; }

/* exp for -88 <= at <= 0: 0 below -87.7, NaN for NaN; relative error 1e-7 above -12 and 4e-7 below, on processors that
 * multiply and add in one step; 6e-7 and 4e-6 on others. */
static inline float exp_at(float at) {
    float shifted = at * 1.44269504088896341f + 12582912.0f; /* rounds: the low bits are n of x = n log 2 + r */
    float r = at - (shifted - 12582912.0f) * 0.69314718056f;
    float p = 1.3843644e-3f;
    p = p * r + 8.374163e-3f;
    p = p * r + 4.1668e-2f;
    p = p * r + 0.16666432f;
    p = p * r + 0.49999994f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    return p * bits_to_float((float_to_bits(shifted) + 127u) << 23);
}

static inline float exp_of(float x) { return exp_at(x < -88.0f ? -88.0f : x); }

/* log for normal x > 0; relative error 1e-7. Of NaN it is a number. */
static inline float log_of(float x) {
    uint32_t bits = float_to_bits(x);
    uint32_t shifted = bits - 0x3f3504f3u; /* mantissa in [sqrt(1/2), sqrt(2)) */
    float n = (float)((int32_t)shifted >> 23);
    float m = bits_to_float((shifted & 0x007fffffu) + 0x3f3504f3u) - 1.0f;
    float s = m * m;
    float p = 7.0376836292e-2f;
    p = p * m - 1.1514610310e-1f;
    p = p * m + 1.1676998740e-1f;
    p = p * m - 1.2420140846e-1f;
    p = p * m + 1.4249322787e-1f;
    p = p * m - 1.6668057665e-1f;
    p = p * m + 2.0000714765e-1f;
    p = p * m - 2.4999993993e-1f;
    p = p * m + 3.3333331174e-1f;
    p = p * m * s;
    p += n * -2.12194440e-4f - 0.5f * s;
    return m + p + n * 0.693359375f;
}

/* Floats of one block: where they are, or in the buffer. */
static inline const float *load(const void *from, int dtype, int64_t at, int n, float *restrict buffer) {
    if (dtype == FLOAT32) return (const float *)from + at;
    if (dtype == BFLOAT16) {
        const uint16_t *bits = (const uint16_t *)from + at;
        for (int i = 0; i < n; i++) buffer[i] = bits_to_float((uint32_t)bits[i] << 16);
        return buffer;
    }
#ifdef __FLT16_MAX__
    const _Float16 *half = (const _Float16 *)from + at;
    for (int i = 0; i < n; i++) buffer[i] = (float)half[i];
#endif
    return buffer;
}

static inline void store(const float *restrict buffer, void *to, int dtype, int64_t at, int n) {
    if (dtype == FLOAT32) {
        memcpy((float *)to + at, buffer, n * sizeof(float));
    } else if (dtype == BFLOAT16) {
        uint16_t *out = (uint16_t *)to + at;
        for (int i = 0; i < n; i++) {
            uint32_t bits = float_to_bits(buffer[i]);
            uint32_t even = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
            out[i] = buffer[i] == buffer[i] ? (uint16_t)even : 0x7fc0u;
        }
    } else {
#ifdef __FLT16_MAX__
        _Float16 *out = (_Float16 *)to + at;
        for (int i = 0; i < n; i++) out[i] = (_Float16)buffer[i];
#endif
    }
}

static inline int64_t size_of(int dtype) { return dtype == FLOAT32 ? 4 : 2; }

/* Ask for a block before it is needed: the processor itself looks ahead no further than to the end of a page. */
static inline void fetch(const void *from, int dtype, int64_t at) {
    const char *start = (const char *)from + at * size_of(dtype);
    for (int64_t i = 0; i < BLOCK * size_of(dtype); i += 64) __builtin_prefetch(start + i);
}

static inline int size_of_block(int64_t at, int64_t n_entries) {
    return n_entries - at < BLOCK ? (int)(n_entries - at) : BLOCK;
}

static inline double factor_of(float peak_of_block, float peak, float inverse_t) {
    return peak_of_block == -INFINITY ? 0.0 : exp_of((peak_of_block - peak) * inverse_t);
}

/* The loops that take the time, each a function of its own, so that the compiler sees nothing but the loop. */
#define LOOP static __attribute__((noinline))

LOOP void extremes(const float *restrict x, int n, float *high, float *low) {
    float most = -INFINITY, least = INFINITY;
#pragma omp simd reduction(max : most) reduction(min : least)
    for (int i = 0; i < n; i++) {
        most = x[i] > most ? x[i] : most;
        least = x[i] < least ? x[i] : least;
    }
    *high = most;
    *low = least;
}

/* e = exp((x - shift) / T); returns its sum. */
LOOP float exponentials(const float *restrict x, int n, float shift, float inverse_t, float *restrict e) {
    float total = 0, lowest = LOWEST;
#pragma omp simd reduction(+ : total)
    for (int i = 0; i < n; i++) {
        e[i] = exp_at(held((x[i] - shift) * inverse_t, lowest));
        total += e[i];
    }
    return total;
}

/* The same at temperature 1, with the sum that the entropy needs. */
LOOP void moments(const float *restrict x, int n, float shift, float *restrict e, struct block *block) {
    float total = 0, weighted = 0, lowest = LOWEST;
#pragma omp simd reduction(+ : total, weighted)
    for (int i = 0; i < n; i++) {
        float below = held(x[i] - shift, lowest), one = exp_at(below);
        e[i] = one;
        total += one;
        weighted += one * below;
    }
    block->total = block->plain = total;
    block->weighted = weighted;
}

LOOP float squares(const float *restrict e, int n) {
    float total = 0;
#pragma omp simd reduction(+ : total)
    for (int i = 0; i < n; i++) total += e[i] * e[i];
    return total;
}

LOOP void add(const float *restrict e, int n, float by, float *restrict q) {
    for (int i = 0; i < n; i++) q[i] += by * e[i];
}

/* What to sum of a row beside what the mixture needs. */
enum { NOTHING, ENTROPY, GINI };

/* Read a row: leave exp((z - peak of block) / T) in `e`, and return its peak and sums. */
static struct row read_row(
    const void *from, int dtype, int64_t n_entries, float inverse_t, float *e, struct block *blocks, int wanted
) {
    float buffer[BLOCK];
    struct row row = {-INFINITY, INFINITY, 0, 0, 0, 0};
    for (int64_t at = 0, b = 0; at < n_entries; at += BLOCK, b++) {
        int n = size_of_block(at, n_entries);
        const float *x = load(from, dtype, at, n, buffer);
        float *restrict to = e + at;
        float high, low;
        fetch(from, dtype, at + BLOCK);
        extremes(x, n, &high, &low);
        float shift = high == -INFINITY ? 0 : high; /* all masked: exponentials are 0, and NaN stays NaN */
        blocks[b].peak = high;
        if (wanted) moments(x, n, shift, to, blocks + b);
        blocks[b].squares = wanted == GINI ? squares(to, n) : NAN;
        if (!wanted || inverse_t != 1) blocks[b].total = exponentials(x, n, shift, inverse_t, to);
        row.peak = high > row.peak ? high : row.peak;
        row.lowest = low < row.lowest ? low : row.lowest;
    }
    for (int64_t b = 0; b * BLOCK < n_entries; b++) {
        double by = factor_of(blocks[b].peak, row.peak, inverse_t);
        row.total += by * blocks[b].total;
        if (!wanted) continue;
        if (inverse_t != 1) by = factor_of(blocks[b].peak, row.peak, 1);
        row.plain += by * blocks[b].plain;
        if (by == 0) continue; /* nothing, however far below the peak */
        row.weighted += by * (blocks[b].weighted + ((double)blocks[b].peak - row.peak) * blocks[b].plain);
        row.squares += by * by * blocks[b].squares;
    }
    if (row.total == 0) row.total = row.plain = NAN; /* a row without any finite entry has no distribution */
    return row;
}

static float at(const void *from, int dtype, int64_t index) {
    float buffer[1];
    return *load(from, dtype, index, 1, buffer);
}

/* How many entries equal the peak, and the largest of the others. */
LOOP int below_peak(const float *restrict x, int n, float peak, float *most) {
    int equal = 0;
    float found = -INFINITY;
#pragma omp simd reduction(+ : equal) reduction(max : found)
    for (int i = 0; i < n; i++) {
        equal += x[i] == peak;
        float other = x[i] < peak ? x[i] : -INFINITY;
        found = other > found ? other : found;
    }
    *most = found;
    return equal;
}

/* Second largest entry; the largest again if there are two of it. */
static float second_of(const void *from, int dtype, int64_t n_entries, const struct block *blocks, float peak) {
    float buffer[BLOCK], second = -INFINITY, most;
    int equal = 0;
    for (int64_t at = 0, b = 0; at < n_entries; at += BLOCK, b++) {
        most = blocks[b].peak;
        if (most == peak) {
            int n = size_of_block(at, n_entries);
            equal += below_peak(load(from, dtype, at, n, buffer), n, peak, &most);
        }
        second = most > second ? most : second;
    }
    return equal > 1 ? peak : second;
}

/* What rules read of softmax(z); `out` is entropy, Gini, margin, log of the largest, log of the label's, classes. */
static void measure(
    const void *from, int dtype, int64_t n_entries, const struct block *blocks, struct row row, int64_t label,
    const int32_t *classes, int n_classes, double *out
) {
    double log_plain = log(row.plain), *mass = out + 5;
    for (int c = 0; c < n_classes; c++) mass[c] = isnan(row.plain) ? NAN : 0;
    for (int64_t at = 0, b = 0; n_classes > 0 && at < n_entries; at += BLOCK, b++) {
        double by = factor_of(blocks[b].peak, row.peak, 1);
        if (by == 0) continue;
        float buffer[BLOCK], plain[BLOCK];
        int n = size_of_block(at, n_entries);
        const float *x = load(from, dtype, at, n, buffer);
        for (int i = 0; i < n; i++) plain[i] = exp_of(x[i] - blocks[b].peak);
        for (int c = 0; c < n_classes; c++) {
            float sum = 0;
#pragma omp simd reduction(+ : sum)
            for (int i = 0; i < n; i++) sum += classes[at + i] == c ? plain[i] : 0.0f;
            mass[c] += by * sum / row.plain;
        }
    }
    double entropy = log_plain - row.weighted / row.plain, gini = 1 - row.squares / (row.plain * row.plain);
    out[0] = entropy < 0 ? 0 : entropy;
    out[1] = gini < 0 ? 0 : gini;
    out[2] = (1 - exp((double)second_of(from, dtype, n_entries, blocks, row.peak) - row.peak)) / row.plain;
    out[3] = -log_plain;
    double found = label < 0 ? NAN : (double)at(from, dtype, label) - row.peak - log_plain;
    out[4] = found < LOG_ZERO ? LOG_ZERO : found;
}

/* Some rows of one array; a row's entries lie side by side. */
struct rows {
    const void *values;
    int64_t stride; /* between rows, in entries */
    int32_t dtype;
};

static const void *row_of(const struct rows *rows, int64_t r) {
    return (const char *)rows->values + r * rows->stride * size_of(rows->dtype);
}

struct sizes {
    int64_t rows, entries, teachers, classes;
};

/* Whether the compiler knew 16 bit floats: without them load and store do nothing. */
int mashbill_has_float16(void) {
#ifdef __FLT16_MAX__
    return 1;
#else
    return 0;
#endif
}

struct objective {
    int32_t kind;
    float beta, rest; /* 1 - beta, which float would round away near 1 */
    float inverse_t;
    float weight;    /* of the divergence's gradient by the logits */
    float weight_ce; /* of the cross-entropy's */
    int32_t wanted;  /* by who measures: entropies, or Gini variances as well */
    float slack;     /* by how much weights may sum to less or more than 1 */
};

/* Read all teachers at some rows into `e` [K R V], `blocks` [K R B] and `read` [K R]; measure them into `measured`
 * [K R 5 + C], if that is given. `labels` [R], below 0 for none, and `classes` [V] may be NULL. */
void mashbill_read(
    const struct sizes *sizes, const struct objective *how, const struct rows *teachers, const int64_t *labels,
    const int32_t *classes, float *e, struct block *blocks, struct row *read, double *measured
) {
    int64_t n_blocks = (sizes->entries + BLOCK - 1) / BLOCK;
    for (int64_t k = 0; k < sizes->teachers; k++)
        for (int64_t r = 0; r < sizes->rows; r++) {
            int64_t place = k * sizes->rows + r;
            const void *from = row_of(teachers + k, r);
            int dtype = teachers[k].dtype;
            float *to = e + place * sizes->entries;
            struct block *own = blocks + place * n_blocks;
            read[place] = read_row(from, dtype, sizes->entries, how->inverse_t, to, own, measured == NULL ? NOTHING : how->wanted);
            if (measured == NULL) continue;
            measure(
                from, dtype, sizes->entries, own, read[place], labels == NULL ? -1 : labels[r], classes,
                (int)sizes->classes, measured + place * (5 + sizes->classes)
            );
        }
}

/* q [R V] += weight softmax(z / T) of one teacher. `e` holds V floats, `blocks` B. */
void mashbill_add(
    const struct sizes *sizes, const struct objective *how, const struct rows *teacher, const float *log_weights,
    float *e, struct block *blocks, float *q
) {
    for (int64_t r = 0; r < sizes->rows; r++) {
        struct row row =
            read_row(row_of(teacher, r), teacher->dtype, sizes->entries, how->inverse_t, e, blocks, NOTHING);
        double by = exp(log_weights[r]) / row.total;
        for (int64_t at = 0, b = 0; at < sizes->entries; at += BLOCK, b++) {
            float here = (float)(by * factor_of(blocks[b].peak, row.peak, how->inverse_t));
            add(e + at, size_of_block(at, sizes->entries), here, q + r * sizes->entries + at);
        }
    }
}

/* One row, as the divergences need it. */
struct task {
    struct objective how;
    int64_t n_entries, n_rows, n_blocks, label;
    int n_teachers;
    const float *e; /* of the first teacher */
    const struct block *blocks;
    const float *own; /* the student's exponentials */
    const struct block *own_blocks;
    struct row row;
    double factors[MOST_TEACHERS]; /* weight over total */
    float peaks[MOST_TEACHERS];
    double sum_weights;
};

/* Pool of one block. */
static void pool(const struct task *task, int64_t b, int n, float *restrict q) {
    memset(q, 0, n * sizeof(float));
    for (int k = 0; k < task->n_teachers; k++) {
        if (task->factors[k] == 0) continue;
        const float *e = task->e + k * task->n_rows * task->n_entries + b * BLOCK;
        float peak = task->blocks[k * task->n_rows * task->n_blocks + b].peak;
        float by = (float)(task->factors[k] * factor_of(peak, task->peaks[k], task->how.inverse_t));
        add(e, n, by, q);
    }
}

/* Add the cross-entropy's gradient to a block and store it. */
static inline void finish(
    const struct task *task, const float *x, int64_t at, int n, float *restrict g, void *out, int dtype
) {
    if (task->label >= 0 && task->how.weight_ce != 0) {
        float by = (float)(task->how.weight_ce / task->row.plain), peak = task->row.peak;
        for (int i = 0; i < n; i++) g[i] += by * exp_of(x[i] - peak);
        if (task->label >= at && task->label < at + n) g[task->label - at] -= task->how.weight_ce;
    }
    store(g, out, dtype, at, n);
}

/* Mass of the pool on entries that lie above the student's floor, all of it as a rule. */
static double unfloored(const struct task *task, const void *from, int dtype, float shift, float log_total) {
    double total = 0;
    float buffer[BLOCK], q[BLOCK];
    for (int64_t at = 0, b = 0; at < task->n_entries; at += BLOCK, b++) {
        int n = size_of_block(at, task->n_entries);
        const float *x = load(from, dtype, at, n, buffer);
        float sum = 0;
        pool(task, b, n, q);
#pragma omp simd reduction(+ : sum)
        for (int i = 0; i < n; i++)
            sum += (x[i] - shift) * task->how.inverse_t - log_total <= LOG_ZERO ? 0.0f : q[i];
        total += sum;
    }
    return total;
}

/* A block of the student: log p = (x - peak) / T - log_total, p = by e. */
struct student {
    float peak, inverse_t, log_total, by, weight;
};

/* Terms of KL(q || p), and its gradient times the weight. */
LOOP float forward_terms(
    const float *restrict x, const float *restrict e, const float *restrict q, int n, struct student s,
    float *restrict g
) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int i = 0; i < n; i++) {
        float logprob = (x[i] - s.peak) * s.inverse_t - s.log_total;
        sum += q[i] * (log_of(q[i] + TINY) - logprob); /* where the sum is more than q, the product is next to 0 */
        g[i] = s.weight * (e[i] * s.by - q[i]);
    }
    return sum;
}

/* The same with entries below the student's floor, where the loss no longer moves. */
LOOP float floored_terms(
    const float *restrict x, const float *restrict e, const float *restrict q, int n, struct student s,
    float *restrict g
) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int i = 0; i < n; i++) {
        float logprob = (x[i] - s.peak) * s.inverse_t - s.log_total;
        float kept = logprob <= LOG_ZERO ? 0.0f : q[i];
        logprob = logprob < LOG_ZERO ? LOG_ZERO : logprob;
        sum += q[i] * (log_of(q[i] + TINY) - logprob);
        g[i] = s.weight * (e[i] * s.by - kept);
    }
    return sum;
}

/* KL(q || p): value, and gradient p sum(q) - q. */
static double forward_kl(const struct task *task, const void *from, int dtype, void *out, int out_dtype) {
    float buffer[BLOCK], q[BLOCK], g[BLOCK];
    float peak = task->row.peak, log_total = (float)log(task->row.total), inverse_t = task->how.inverse_t;
    struct student student = {peak, inverse_t, log_total, 0, task->how.weight};
    int is_low = (task->row.lowest - peak) * inverse_t - log_total <= LOG_ZERO;
    double value = 0, sum_q = is_low ? unfloored(task, from, dtype, peak, log_total) : task->sum_weights;
    for (int64_t at = 0, b = 0; at < task->n_entries; at += BLOCK, b++) {
        int n = size_of_block(at, task->n_entries);
        const float *x = load(from, dtype, at, n, buffer), *own = task->own + at;
        student.by = (float)(sum_q * factor_of(task->own_blocks[b].peak, peak, inverse_t) / task->row.total);
        pool(task, b, n, q);
        value += is_low ? floored_terms(x, own, q, n, student, g) : forward_terms(x, own, q, n, student, g);
        finish(task, x, at, n, g, out, out_dtype);
    }
    return value;
}

/* KL(p || q), or beta KL(q || m) + (1 - beta) KL(p || m) with m = beta q + (1 - beta) p: gradient p h - p sum(p h).
 * Returns 0 and writes nothing where the pool underflows under the student's mass. `ascent` [V] is scratch. */
static int by_student(
    const struct task *task, const void *from, int dtype, void *out, int out_dtype, float *ascent, double *value
) {
    float buffer[BLOCK], q[BLOCK], g[BLOCK];
    float peak = task->row.peak, log_total = (float)log(task->row.total), inverse_t = task->how.inverse_t;
    float beta = task->how.beta, rest = task->how.rest;
    double of_student = 0, of_target = 0, lost = 0, blurred = 0, remainder = 0;
    for (int64_t at = 0, b = 0; at < task->n_entries; at += BLOCK, b++) {
        int n = size_of_block(at, task->n_entries);
        const float *x = load(from, dtype, at, n, buffer), *own = task->own + at;
        float *restrict to = ascent + at;
        float by = (float)(factor_of(task->own_blocks[b].peak, peak, inverse_t) / task->row.total);
        float sum = 0, other = 0, under = 0, faint = 0;
        pool(task, b, n, q);
        if (task->how.kind == REVERSE_KL) {
#pragma omp simd reduction(+ : sum, under, faint)
            for (int i = 0; i < n; i++) {
                float p = own[i] * by, logprob = (x[i] - peak) * inverse_t - log_total;
                logprob = logprob < LOG_ZERO ? LOG_ZERO : logprob;
                to[i] = p * (logprob - log_of(q[i] < TINY ? TINY : q[i]));
                sum += to[i];
                under += q[i] < TINY ? p : 0.0f;
                faint += q[i] < FAINT ? p : 0.0f;
            }
        } else {
#pragma omp simd reduction(+ : sum, other)
            for (int i = 0; i < n; i++) {
                float p = own[i] * by, logprob = (x[i] - peak) * inverse_t - log_total;
                logprob = logprob < LOG_ZERO ? LOG_ZERO : logprob;
                float middle = beta * q[i] + rest * p;
                float log_middle = log_of(middle < TINY ? TINY : middle);
                to[i] = p * (logprob - log_middle);
                sum += to[i];
                other += q[i] * (log_of(q[i] < TINY ? TINY : q[i]) - log_middle);
            }
        }
        of_student += sum;
        of_target += other;
        lost += under;
        blurred += faint;
    }
    if (lost > LOST || blurred > BLURRED) return 0;
    float total = (float)of_student, weight = task->how.weight * (task->how.kind == JS ? rest : 1);
    *value = task->how.kind == JS ? beta * of_target + rest * of_student : of_student;
    /* Twice: where one entry has nearly all the mass, what remains is the rounding of that entry. */
    for (int64_t at = 0, b = 0; at < task->n_entries; at += BLOCK, b++) {
        int n = size_of_block(at, task->n_entries);
        float by = (float)(factor_of(task->own_blocks[b].peak, peak, inverse_t) / task->row.total), sum = 0;
        const float *own = task->own + at;
        float *restrict to = ascent + at;
#pragma omp simd reduction(+ : sum)
        for (int i = 0; i < n; i++) {
            to[i] -= own[i] * by * total;
            sum += to[i];
        }
        remainder += sum;
    }
    for (int64_t at = 0, b = 0; at < task->n_entries; at += BLOCK, b++) {
        int n = size_of_block(at, task->n_entries);
        const float *x = load(from, dtype, at, n, buffer), *own = task->own + at;
        float by = (float)(remainder * factor_of(task->own_blocks[b].peak, peak, inverse_t) / task->row.total);
        for (int i = 0; i < n; i++) g[i] = weight * (ascent[at + i] - own[i] * by);
        finish(task, x, at, n, g, out, out_dtype);
    }
    return 1;
}

/* Mix what mashbill_read left, and write divergence and cross-entropy, `values` [2 R], and the gradient. Returns how
 * many rows were left as they are, and `done` [R] is 0 for those: where the pool underflowed, or all of them where the
 * weights of one do not sum to 1. `scratch` holds 2 V floats, `own_blocks` B. */
int64_t mashbill_mix(
    const struct sizes *sizes, const struct objective *how, const struct rows *student, const struct rows *gradient,
    const float *log_weights, const int64_t *labels, const int32_t *classes, const float *e,
    const struct block *blocks, const struct row *read, float *scratch, struct block *own_blocks, double *values,
    double *measured, int8_t *done
) {
    double *divergence = values, *cross_entropy = values + sizes->rows;
    int64_t n_blocks = (sizes->entries + BLOCK - 1) / BLOCK, n_left = 0;
    memset(done, 0, sizes->rows);
    for (int64_t r = 0; r < sizes->rows; r++) {
        double sum = 0;
        for (int64_t k = 0; k < sizes->teachers; k++) sum += exp(log_weights[k * sizes->rows + r]);
        if (fabs(sum - 1) > how->slack) return sizes->rows; /* before anything is written */
    }
    for (int64_t r = 0; r < sizes->rows; r++) {
        const void *from = row_of(student, r);
        void *out = (void *)row_of(gradient, r);
        struct task task = {.how = *how, .n_entries = sizes->entries, .n_rows = sizes->rows, .n_blocks = n_blocks};
        task.label = labels == NULL ? -1 : labels[r];
        task.n_teachers = (int)sizes->teachers;
        task.e = e + r * sizes->entries;
        task.blocks = blocks + r * n_blocks;
        int wanted = how->inverse_t != 1 && task.label >= 0 ? ENTROPY : NOTHING;
        if (measured != NULL) wanted = how->wanted;
        task.row = read_row(from, student->dtype, sizes->entries, how->inverse_t, scratch, own_blocks, wanted);
        if (!wanted) task.row.plain = task.row.total;
        task.own = scratch;
        task.own_blocks = own_blocks;
        for (int k = 0; k < task.n_teachers; k++) {
            const struct row *teacher = read + k * sizes->rows + r;
            double weight = exp(log_weights[k * sizes->rows + r]);
            task.factors[k] = weight / teacher->total;
            task.peaks[k] = teacher->peak;
            task.sum_weights += weight;
            /* A teacher without a distribution, switched off or not: no number of this row means anything. */
            if (isnan(task.factors[k])) task.row.total = NAN;
        }
        if (measured != NULL)
            measure(
                from, student->dtype, sizes->entries, own_blocks, task.row, task.label, classes, (int)sizes->classes,
                measured + r * (5 + sizes->classes)
            );
        double log_label = 0;
        if (task.label >= 0) {
            log_label = (double)at(from, student->dtype, task.label) - task.row.peak - log(task.row.plain);
            if (log_label < LOG_ZERO) log_label = LOG_ZERO;
            if (log_label <= LOG_ZERO) task.label = -1; /* at the floor the loss no longer moves with the logits */
        }
        cross_entropy[r] = -log_label;
        done[r] = 1;
        if (how->kind == FORWARD_KL) {
            divergence[r] = forward_kl(&task, from, student->dtype, out, gradient->dtype);
        } else {
            done[r] = by_student(
                &task, from, student->dtype, out, gradient->dtype, scratch + sizes->entries, divergence + r
            );
        }
        n_left += !done[r];
    }
    return n_left;
}
