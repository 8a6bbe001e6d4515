/* Two products of decoding with DoLa on a CPU: the LM head for a few rows at once, and the divergences between its rows.
 *
 * dola_head: logits [R, V] = rows [R, d] x weight [V, d]^T, and log sum exp of each row.
 *
 * Decoding reads the head's weights once a token, and that reading is what it costs. DoLa wants the product for K + 1 rows
 * (mature and premature) instead of one. Here the weights still stream through the cores once: each block of the vocabulary is
 * multiplied with all rows while it is in cache, and its share of every row's normaliser is taken while the logits are.
 *
 * dola_jsd: Jensen-Shannon divergence, less ln 2, of each of K rows from the first, in one pass over [K+1, V].
 *
 * dola_log_z: for many rows, a row to a thread: log sum exp.
 *
 * dola_compare: how the rows of K layers differ from the mature ones: both divergences, and log sum exp and the largest of
 * F = log p - strength * log q. The mature row is taken apart once for all layers.
 *
 * Plain C with the vector extensions of gcc and clang; one instruction (bf16 dot product of AVX-512) by name where there is one.
 * Accumulation is in float32. bfloat16 logits are rounded to nearest even, as the model's own are; normalisers are taken from the rounded logits.
 */
#include <float.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#if defined(__AVX512F__)
#define BYTES 64 /* of a vector register */
#define TILE 12  /* rows at a time: two accumulators each stay in registers */
#elif defined(__AVX__)
#define BYTES 32
#define TILE 6
#else
#define BYTES 16
#define TILE 6
#endif
#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

#define LANES (BYTES / 4)
#define BLOCK 256 /* vocabulary entries at a time: their weights fit the second-level cache */
typedef float vec __attribute__((vector_size(BYTES)));
typedef int32_t ivec __attribute__((vector_size(BYTES)));
typedef float load_f __attribute__((vector_size(BYTES), aligned(4), may_alias));
typedef uint32_t load_u __attribute__((vector_size(BYTES), aligned(2), may_alias));

static inline float sum(vec v) {
    float total = 0;
    for (int i = 0; i < LANES; i++) total += v[i];
    return total;
}

/* Accumulators take one vector of weights: LANES floats, or 2 * LANES bfloat16. */
static inline vec dot_f32(vec acc, const float *w, const float *x) { return acc + *(const load_f *)w * *(const load_f *)x; }

static inline vec dot_bf16(vec acc, const uint16_t *w, const uint16_t *x) {
#if defined(__AVX512BF16__)
    return (vec)_mm512_dpbf16_ps((__m512)acc, (__m512bh)_mm512_loadu_si512(w), (__m512bh)_mm512_loadu_si512(x));
#else
    load_u a = *(const load_u *)w, b = *(const load_u *)x; /* pairs: the low half is the even element */
    acc += (vec)(a << 16) * (vec)(b << 16);
    return acc + (vec)(a & 0xffff0000u) * (vec)(b & 0xffff0000u);
#endif
}

static inline uint16_t to_bf16(float f) {
    union { float f; uint32_t u; } c = {f};
    if ((c.u & 0x7fffffffu) > 0x7f800000u) return 0x7fc0; /* NaN */
    return (uint16_t)((c.u + 0x7fffu + ((c.u >> 16) & 1)) >> 16);
}

static inline float from_bf16(uint16_t h) {
    union { uint32_t u; float f; } c = {(uint32_t)h << 16};
    return c.f;
}

/* exp(x) for x <= 0, relative error below 2e-7; NaN stays NaN, anything below -87 counts as nothing. */
static inline vec exp_below_zero(vec x) {
    const vec lowest = (vec){} - 87.0f;
    ivec low = x < lowest;
    x = (vec)(((ivec)lowest & low) | ((ivec)x & ~low));
    ivec n = __builtin_convertvector(x * 1.44269504f - 0.5f, ivec); /* towards zero: the nearest integer, as x <= 0 */
    vec k = __builtin_convertvector(n, vec), r = (x - k * 0.693359375f) + k * 2.12194440e-4f;
    vec p = (vec){} + 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return p * (vec)((n + 127) << 23);
}

/* One row's share of a block: its largest logit, and the sum of exp(logit - largest). */
static inline void normaliser(const float *logits, float *largest, float *total) {
    vec m = *(const vec *)logits, s = {};
    for (int i = LANES; i < BLOCK; i += LANES) {
        vec x = *(const vec *)(logits + i);
        ivec above = x > m;
        m = (vec)(((ivec)x & above) | ((ivec)m & ~above));
    }
    float top = m[0];
    for (int i = 1; i < LANES; i++) top = m[i] > top ? m[i] : top;
    for (int i = 0; i < BLOCK; i += LANES) s += exp_below_zero(*(const vec *)(logits + i) - top);
    *largest = top;
    *total = sum(s);
}

#define DEFINE(NAME, TYPE, STEP, DOT, STORE, STORED)                                                                           \
    static inline __attribute__((always_inline)) void NAME##_tile(                                                            \
        const TYPE *w, const TYPE *x, TYPE *out, float *max, float *total, long n, long V, long d, const int R) {             \
        float logits[TILE][BLOCK] __attribute__((aligned(BYTES)));                                                            \
        for (long v = 0; v < n; v += 2) { /* two vocabulary entries at a time halve the loads of x */                         \
            const TYPE *w0 = w + v * d, *w1 = v + 1 < n ? w0 + d : w0;                                                        \
            vec a[TILE], b[TILE];                                                                                             \
            for (int r = 0; r < R; r++) a[r] = b[r] = (vec){};                                                                \
            for (long i = 0; i < d; i += STEP) {                                                                              \
                __builtin_prefetch(w0 + i + 8 * d);                                                                           \
                __builtin_prefetch(w1 + i + 8 * d);                                                                           \
                _Pragma("GCC unroll 12") for (int r = 0; r < R; r++) {                                                        \
                    a[r] = DOT(a[r], w0 + i, x + r * d + i);                                                                  \
                    b[r] = DOT(b[r], w1 + i, x + r * d + i);                                                                  \
                }                                                                                                             \
            }                                                                                                                 \
            for (int r = 0; r < R; r++) {                                                                                     \
                logits[r][v] = sum(a[r]);                                                                                     \
                if (v + 1 < n) logits[r][v + 1] = sum(b[r]);                                                                  \
            }                                                                                                                 \
        }                                                                                                                     \
        for (int r = 0; r < R; r++) {                                                                                         \
            for (long v = 0; v < n; v++) {                                                                                    \
                out[r * V + v] = STORE(logits[r][v]);                                                                         \
                logits[r][v] = STORED(out[r * V + v]);                                                                        \
            }                                                                                                                 \
            for (long v = n; v < BLOCK; v++) logits[r][v] = -INFINITY;                                                        \
            normaliser(logits[r], max + r, total + r);                                                                        \
        }                                                                                                                     \
    }                                                                                                                         \
    static void NAME##_block(                                                                                                 \
        const TYPE *w, const TYPE *x, TYPE *out, float *max, float *total, long n, long V, long d, long R) {                  \
        for (long r = 0; r < R; r += TILE) {                                                                                  \
            switch (R - r) { /* a constant number of rows in each, so that its accumulators are registers */                  \
                CASES(NAME)                                                                                                   \
                default: NAME##_tile(w, x + r * d, out + r * V, max + r, total + r, n, V, d, TILE);                           \
            }                                                                                                                 \
        }                                                                                                                     \
    }
#define CASE(NAME, N) case N: NAME##_tile(w, x + r * d, out + r * V, max + r, total + r, n, V, d, N); break;
#if TILE == 12
#define CASES(NAME) CASE(NAME, 1) CASE(NAME, 2) CASE(NAME, 3) CASE(NAME, 4) CASE(NAME, 5) CASE(NAME, 6) \
    CASE(NAME, 7) CASE(NAME, 8) CASE(NAME, 9) CASE(NAME, 10) CASE(NAME, 11)
#else
#define CASES(NAME) CASE(NAME, 1) CASE(NAME, 2) CASE(NAME, 3) CASE(NAME, 4) CASE(NAME, 5)
#endif
#define SAME(x) (x)
DEFINE(f32, float, LANES, dot_f32, SAME, SAME)
DEFINE(bf16, uint16_t, 2 * LANES, dot_bf16, to_bf16, from_bf16)

/* bf16: 1 for bfloat16, 0 for float32. d must be a multiple of 32. Returns 0, or 1 where memory ran out. */
int dola_head(int bf16, const void *weight, const void *rows, void *logits, float *lse, long V, long d, long R, int threads) {
    long blocks = (V + BLOCK - 1) / BLOCK;
    float *max = malloc(2 * sizeof(float) * blocks * R), *total = max + blocks * R;
    if (!max) return 1;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long b = 0; b < blocks; b++) {
        long v = b * BLOCK, n = v + BLOCK < V ? BLOCK : V - v;
        if (bf16)
            bf16_block((const uint16_t *)weight + v * d, rows, (uint16_t *)logits + v, max + b * R, total + b * R, n, V, d, R);
        else
            f32_block((const float *)weight + v * d, rows, (float *)logits + v, max + b * R, total + b * R, n, V, d, R);
    }
    for (long r = 0; r < R; r++) {
        double top = max[r], sum = 0;
        for (long b = 1; b < blocks; b++) top = max[b * R + r] > top ? max[b * R + r] : top;
        for (long b = 0; b < blocks; b++) sum += total[b * R + r] * exp(max[b * R + r] - top);
        lse[r] = (float)(top + log(sum));
    }
    free(max);
    return 0;
}

/* ln x for normal x > 0, relative error below 2e-7 where |ln x| > 0.1, absolute below 1e-7 elsewhere; NaN stays NaN. */
static inline vec log_above_zero(vec x) {
    ivec bits = (ivec)x, nan = x != x;
    vec e = __builtin_convertvector((bits >> 23) - 126, vec), m = (vec)((bits & 0x007fffff) | 0x3f000000); /* in [1/2, 1) */
    ivec low = m < 0.70710678f;
    e += __builtin_convertvector(low, vec); /* true is -1 */
    m += (vec)((ivec)m & low) - 1.0f;
    vec z = m * m, p = (vec){} + 7.0376836292e-2f;
    p = p * m - 1.1514610310e-1f;
    p = p * m + 1.1676998740e-1f;
    p = p * m - 1.2420140846e-1f;
    p = p * m + 1.4249322787e-1f;
    p = p * m - 1.6668057665e-1f;
    p = p * m + 2.0000714765e-1f;
    p = p * m - 2.4999993993e-1f;
    p = p * m + 3.3333331174e-1f;
    p = p * m * z - e * 2.12194440e-4f - z * 0.5f + m + e * 0.693359375f;
    return (vec)(((ivec)x & nan) | ((ivec)p & ~nan));
}

/* Log-probabilities of a block, at least -87, below which there is no mass that counts; -87 behind its end. */
static inline void log_probabilities(float *to, int bf16, const void *row, long v, long n, float log_z) {
    for (long i = 0; i < n; i++) {
        float x = (bf16 ? from_bf16(((const uint16_t *)row)[v + i]) : ((const float *)row)[v + i]) - log_z;
        to[i] = x < -87.0f ? -87.0f : x;
    }
    for (long i = n; i < BLOCK; i++) to[i] = -87.0f;
}

/* Logits [K+1, V] of `stride` elements a row, mature first, and their log sum exp. JSD - ln 2 = -1/2 sum p ln((p+q)/p) + q ln((p+q)/q):
 * far layers share next to nothing with the mature one, and ln 2 would swallow the difference. */
int dola_jsd(int bf16, const void *logits, const float *log_z, float *jsd, long stride, long V, long K, int threads) {
    long blocks = (V + BLOCK - 1) / BLOCK, bytes = bf16 ? 2 : 4;
    float *shared = malloc(sizeof(float) * blocks * K);
    if (!shared) return 1;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long b = 0; b < blocks; b++) {
        long v = b * BLOCK, n = v + BLOCK < V ? BLOCK : V - v;
        float log_p[BLOCK] __attribute__((aligned(BYTES))), log_q[BLOCK] __attribute__((aligned(BYTES)));
        vec p[BLOCK / LANES];
        log_probabilities(log_p, bf16, logits, v, n, log_z[0]);
        for (int i = 0; i < BLOCK / LANES; i++) p[i] = exp_below_zero(((const vec *)log_p)[i]);
        for (long k = 0; k < K; k++) {
            vec total = {};
            log_probabilities(log_q, bf16, (const char *)logits + (k + 1) * stride * bytes, v, n, log_z[k + 1]);
            for (int i = 0; i < BLOCK / LANES; i++) {
                vec lp = ((const vec *)log_p)[i], lq = ((const vec *)log_q)[i], q = exp_below_zero(lq);
                vec log_sum = log_above_zero(p[i] + q);
                total += p[i] * (log_sum - lp) + q * (log_sum - lq);
            }
            shared[b * K + k] = sum(total);
        }
    }
    for (long k = 0; k < K; k++) {
        double total = 0;
        for (long b = 0; b < blocks; b++) total += shared[b * K + k];
        jsd[k] = (float)(-0.5 * total);
    }
    free(shared);
    return 0;
}

static inline vec at_least(vec x, float least) {
    ivec low = x < least;
    return (vec)(((ivec)((vec){} + least) & low) | ((ivec)x & ~low)); /* NaN stays NaN */
}

/* A running log sum exp: the sum of exp(x - largest) so far. */
typedef struct { float largest; double total; } running;

static inline void add_block(running *sum, const float *values) {
    float largest, total;
    normaliser(values, &largest, &total);
    if (largest == -INFINITY) return; /* a block without mass */
    if (largest > sum->largest) {
        sum->total = sum->total * exp((double)sum->largest - largest) + total;
        sum->largest = largest;
    } else {
        sum->total += total * exp((double)largest - sum->largest);
    }
}

/* n logits of a block as float32, `behind` behind them. */
static inline void read_block(float *to, int bf16, const void *row, long v, long n, float behind) {
    if (bf16)
        for (long i = 0; i < n; i++) to[i] = from_bf16(((const uint16_t *)row)[v + i]);
    else
        for (long i = 0; i < n; i++) to[i] = ((const float *)row)[v + i];
    for (long i = n; i < BLOCK; i++) to[i] = behind;
}

static inline float row_log_z(int bf16, const void *row, long V) {
    running sum = {-FLT_MAX, 0};
    float logits[BLOCK] __attribute__((aligned(BYTES)));
    for (long v = 0; v < V; v += BLOCK) {
        read_block(logits, bf16, row, v, v + BLOCK < V ? BLOCK : V - v, -INFINITY);
        add_block(&sum, logits);
    }
    return (float)(sum.largest + log(sum.total));
}

/* Log sum exp of R rows of V logits, `stride` elements apart. */
void dola_log_z(int bf16, const void *logits, float *log_z, long stride, long V, long R, int threads) {
    long bytes = bf16 ? 2 : 4;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long r = 0; r < R; r++) log_z[r] = row_log_z(bf16, (const char *)logits + r * stride * bytes, V);
}

/* Entropies in nats of softmax of R rows of V logits, `stride` elements apart: with S = sum exp(x - m) and T = sum (x - m) exp(x - m),
 * ln S - T / S for any m. Each block has its largest logit as m; they are joined in the order of blocks, whatever the threads. */
int dola_entropy(int bf16, const void *logits, float *entropy, long stride, long V, long R, int threads) {
    long blocks = (V + BLOCK - 1) / BLOCK, bytes = bf16 ? 2 : 4;
    float *shared = malloc(sizeof(float) * 3 * blocks * R);
    if (!shared) return 1;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long each = 0; each < blocks * R; each++) {
        long v = each % blocks * BLOCK;
        float x[BLOCK] __attribute__((aligned(BYTES))), largest, total;
        read_block(x, bf16, (const char *)logits + each / blocks * stride * bytes, v, v + BLOCK < V ? BLOCK : V - v, -INFINITY);
        normaliser(x, &largest, &total);
        vec mean = {};
        for (int i = 0; largest != -INFINITY && i < BLOCK / LANES; i++) {
            vec below = at_least(((vec *)x)[i] - largest, -87.0f);
            mean += below * exp_below_zero(below);
        }
        shared[3 * each] = largest, shared[3 * each + 1] = total, shared[3 * each + 2] = sum(mean);
    }
    for (long r = 0; r < R; r++) {
        double m = -INFINITY, S = 0, T = 0;
        for (const float *b = shared + 3 * r * blocks; b < shared + 3 * (r + 1) * blocks; b += 3) {
            if (b[0] == -INFINITY) continue; /* a block without mass */
            double to = b[0] > m ? b[0] : m, mine = exp(b[0] - to), theirs = m == -INFINITY ? 0 : exp(m - to);
            T = (b[2] + b[1] * (b[0] - to)) * mine + (theirs ? (T + S * (m - to)) * theirs : 0);
            S = b[1] * mine + S * theirs;
            m = to;
        }
        entropy[r] = (float)(log(S) - T / S); /* NaN where no token has mass */
    }
    free(shared);
    return 0;
}

extern int omp_get_thread_num(void);

/* One row of a layer beside the mature one: what both passes share. `log_p` and `p` are the mature row's, `e` is room for the layer's
 * exponentials, each block's below its largest logit, and `largest` for those: the second pass need not take them again. */
typedef struct { float *log_p, *p, *e, *largest; } room;

static inline float layer_log_z(int bf16, const void *row, long V, room at) {
    running sum = {-FLT_MAX, 0};
    for (long v = 0; v < V; v += BLOCK) {
        vec *x = (vec *)(at.e + v), m, s = {};
        read_block(at.e + v, bf16, row, v, v + BLOCK < V ? BLOCK : V - v, -INFINITY);
        m = x[0];
        for (int i = 1; i < BLOCK / LANES; i++) {
            ivec above = x[i] > m;
            m = (vec)(((ivec)x[i] & above) | ((ivec)m & ~above));
        }
        float top = m[0];
        for (int i = 1; i < LANES; i++) top = m[i] > top ? m[i] : top;
        at.largest[v / BLOCK] = top;
        if (top == -INFINITY) { /* a block without mass */
            for (int i = 0; i < BLOCK / LANES; i++) x[i] = (vec){};
            continue;
        }
        for (int i = 0; i < BLOCK / LANES; i++) s += x[i] = exp_below_zero(x[i] - top);
        float total = 0;
        for (int i = 0; i < LANES; i++) total += s[i];
        if (top > sum.largest) {
            sum.total = sum.total * exp((double)sum.largest - top) + total;
            sum.largest = top;
        } else {
            sum.total += total * exp((double)top - sum.largest);
        }
    }
    return (float)(sum.largest + log(sum.total));
}

typedef struct { double shared, apart; } diverged;

/* The second pass. `gain` gets log sum exp and largest of F for S strengths. `kl` and `js` say which divergences are wanted, as
 * constants, so that what nobody wants is not in the loop. */
static inline __attribute__((always_inline)) diverged compare_row(int bf16, const void *q, float z_q, room at, long V, const int js,
                                                                  const int kl, const float *strengths, running *gain, long S) {
    diverged found = {0, 0};
    float log_q[BLOCK] __attribute__((aligned(BYTES))), f[BLOCK] __attribute__((aligned(BYTES)));
    for (long v = 0; v < V; v += BLOCK) {
        long m = v + BLOCK < V ? BLOCK : V - v;
        const vec *log_p = (vec *)(at.log_p + v), *p = (vec *)(at.p + v), *e = (vec *)(at.e + v);
        vec *lqs = (vec *)log_q, by = (vec){} + (float)exp((double)at.largest[v / BLOCK] - z_q), shared = {}, apart = {};
        ivec infinite = {};
        read_block(log_q, bf16, q, v, m, z_q - 87.0f);
        for (int i = 0; i < BLOCK / LANES; i++) {
            vec lp = log_p[i], lq = lqs[i] = lqs[i] - z_q;
            if (!js && !kl) continue;
            vec a = p[i], b = e[i] * by, log_sum = log_above_zero(a + b);
            if (js) shared += a * (log_sum - at_least(lp, -87.0f)) + b * (log_sum - at_least(lq, -87.0f));
            if (!kl) continue;
            apart += (a + b) * (log_sum - 0.69314718f - 0.5f * (at_least(lp, -1e20f) + at_least(lq, -1e20f)));
            ivec p_out = lp < -FLT_MAX, q_out = lq < -FLT_MAX;
            infinite |= (p_out & ~q_out & (lq > -103.0f)) | (q_out & ~p_out & (lp > -103.0f));
        }
        found.shared += sum(shared);
        found.apart += sum(apart);
        for (int i = 0; kl && i < LANES; i++) if (infinite[i]) found.apart = INFINITY;
        for (long s = 0; s < S; s++) {
            const float least = -1e30f / (strengths[s] > 1 ? strengths[s] : 1); /* of log q, so that F is finite */
            for (int i = 0; i < BLOCK / LANES; i++) ((vec *)f)[i] = strengths[s] * at_least(lqs[i], least);
            __asm__ volatile("" : : "r"(f) : "memory"); /* the product is rounded before it is subtracted, as torch rounds it */
            for (int i = 0; i < BLOCK / LANES; i++) ((vec *)f)[i] = log_p[i] - ((vec *)f)[i];
            for (long i = m; i < BLOCK; i++) f[i] = -INFINITY;
            add_block(gain + s, f);
        }
    }
    return found;
}

/* K layers beside the mature one: row r of p and of each layer, of V logits each, p_stride and q_stride elements apart, with the log sum
 * exp of p's. Written: log sum exp of the layers' rows, jsd (less ln 2), reference (the old code's divergence), [K, n] each, and gains
 * ([2, S, K, n]: log sum exp of F, largest F, for S strengths); jsd and reference may be NULL. Returns 0, or 1 where memory ran out.
 * log q is at least -1e30 in F, as in the formula of the contrast; with less than exp(-87) a token has no mass. The old divergence
 * is infinite where one layer rules out (-inf) what the other gives any probability that float32 holds. */
int dola_compare(int bf16, const void *p, const void *const *layers, const float *p_log_z, float *q_log_z, float *jsd,
                 float *reference, float *gains, const float *strengths, long S, long p_stride, long q_stride, long V, long n, long K,
                 int threads) {
    long bytes = bf16 ? 2 : 4, blocks = (V + BLOCK - 1) / BLOCK, wide = blocks * BLOCK, each = 3 * wide + blocks;
    each = (each + LANES - 1) / LANES * LANES;
    float *rooms = aligned_alloc(BYTES, sizeof(float) * each * threads);
    running *sums = malloc(sizeof(running) * (S + 1) * threads);
    if (!rooms || !sums) {
        free(rooms);
        free(sums);
        return 1;
    }
#pragma omp parallel num_threads(threads)
    {
        float *mine = rooms + each * omp_get_thread_num();
        running *gain = sums + (S + 1) * omp_get_thread_num();
        room at = {mine, mine + wide, mine + 2 * wide, mine + 3 * wide};
        long of = -1; /* whose mature row the room holds */
#pragma omp for schedule(static)
        for (long job = 0; job < n * K; job++) {
            long r = job / K, k = job % K, to = k * n + r;
            if (of != r) {
                of = r;
                for (long v = 0; v < V; v += BLOCK) {
                    read_block(at.log_p + v, bf16, (const char *)p + r * p_stride * bytes, v, v + BLOCK < V ? BLOCK : V - v, p_log_z[r] - 87.0f);
                    for (int i = 0; i < BLOCK / LANES; i++) {
                        vec lp = ((vec *)(at.log_p + v))[i] - p_log_z[r];
                        ((vec *)(at.log_p + v))[i] = lp;
                        if (jsd || reference) ((vec *)(at.p + v))[i] = exp_below_zero(at_least(lp, -87.0f));
                    }
                }
            }
            const char *q = (const char *)layers[k] + r * q_stride * bytes;
            float z = q_log_z[to] = layer_log_z(bf16, q, V, at);
            for (long s = 0; s < S; s++) gain[s] = (running){-FLT_MAX, 0};
            diverged found = {0, 0};
            if (reference) found = compare_row(bf16, q, z, at, V, 1, 1, strengths, gain, S);
            else if (jsd) found = compare_row(bf16, q, z, at, V, 1, 0, strengths, gain, S);
            else if (S) found = compare_row(bf16, q, z, at, V, 0, 0, strengths, gain, S);
            if (jsd) jsd[to] = (float)(-0.5 * found.shared);
            if (reference) reference[to] = (float)(0.5 * found.apart / V);
            for (long s = 0; s < S; s++) {
                gains[s * K * n + to] = (float)(gain[s].largest + log(gain[s].total));
                gains[(S + s) * K * n + to] = gain[s].largest;
            }
        }
    }
    free(rooms);
    free(sums);
    return 0;
}

/* What SLED's cosines are made of, for n rows of layers' logits and R mature ones (row i belongs to mature row i mod R): with
 * q = exp(l - log_z) and d = l - m, sums[0..2] = sum of q, q^2 and q d over the tokens that are not `inside` [R, V], and
 * sums[3] = sum of d^2 over all; [4, n]. Columns without a token (m = -inf) count as d = 0. */
void dola_outside(int bf16, const void *mature, const void *premature, const float *log_z, const uint8_t *inside, double *sums,
                  long m_stride, long p_stride, long V, long R, long n, int threads) {
    long bytes = bf16 ? 2 : 4;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long row = 0; row < n; row++) {
        const char *m = (const char *)mature + row % R * m_stride * bytes, *l = (const char *)premature + row * p_stride * bytes;
        const uint8_t *skip = inside + row % R * V;
        float z = log_z[row], nothing = z - 87.0f;
        double found[4] = {0, 0, 0, 0};
        float ms[BLOCK] __attribute__((aligned(BYTES))), ls[BLOCK] __attribute__((aligned(BYTES)));
        int32_t out[BLOCK] __attribute__((aligned(BYTES)));
        for (long v = 0; v < V; v += BLOCK) {
            long here = v + BLOCK < V ? BLOCK : V - v;
            read_block(ms, bf16, m, v, here, nothing);
            read_block(ls, bf16, l, v, here, nothing);
            for (long i = 0; i < here; i++) out[i] = (int32_t)skip[v + i] - 1; /* all bits where the token is outside */
            for (long i = here; i < BLOCK; i++) out[i] = 0;
            vec mass = {}, square = {}, product = {}, distance = {};
            for (int i = 0; i < BLOCK / LANES; i++) {
                vec a = ((vec *)ms)[i], b = ((vec *)ls)[i];
                vec d = (vec)((ivec)(b - a) & ~(a < -FLT_MAX));
                vec below = b - z;
                below = (vec)((ivec)below & ~(below > 0.0f)); /* log_z is rounded */
                vec q = (vec)((ivec)exp_below_zero(below) & ((ivec *)out)[i]);
                mass += q;
                square += q * q;
                product += q * d;
                distance += d * d;
            }
            found[0] += sum(mass);
            found[1] += sum(square);
            found[2] += sum(product);
            found[3] += sum(distance);
        }
        for (int i = 0; i < 4; i++) sums[i * n + row] = found[i];
    }
}
