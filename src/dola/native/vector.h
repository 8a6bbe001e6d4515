/* What the kernels share: vectors of float32, bfloat16, exp and log, and what a block of logits adds to a row's normaliser and entropy.
 *
 * Plain C with the vector extensions of gcc and clang; one instruction (bf16 dot product of AVX-512) by name where there is one.
 */
#include <float.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#if defined(__AVX512F__)
#define BYTES 64 /* of a vector register */
#elif defined(__AVX__)
#define BYTES 32
#else
#define BYTES 16
#endif
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#define LANES (BYTES / 4)
#define BLOCK 256 /* vocabulary entries at a time: their weights fit the second-level cache */
#define ALIGNED __attribute__((aligned(BYTES)))
typedef float vec __attribute__((vector_size(BYTES)));
typedef int32_t ivec __attribute__((vector_size(BYTES)));
typedef uint32_t uvec __attribute__((vector_size(BYTES)));
typedef uint16_t half __attribute__((vector_size(BYTES / 2)));
typedef float load_f __attribute__((vector_size(BYTES), aligned(4), may_alias));
typedef uint32_t load_u __attribute__((vector_size(BYTES), aligned(2), may_alias));
typedef uint16_t load_h __attribute__((vector_size(BYTES / 2), aligned(2), may_alias));

static inline float sum(vec v) {
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++) v[i] += v[i + half];
    return v[0];
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

/* A vector of float32 as the bits of bfloat16, rounded to nearest even, in the upper halves. */
static inline uvec rounded(vec f) {
    uvec bits = (uvec)f, odd = (bits >> 16) & 1, nan = (uvec)(f != f);
    return (((bits + 0x7fff + odd) & ~nan) | (nan & 0x7fc00000u)) & 0xffff0000u;
}

/* LANES logits from `i` on. */
static inline vec logits_at(int bf16, const void *row, long i) {
    if (!bf16) return *(const load_f *)((const float *)row + i);
    load_h narrow = *(const load_h *)((const uint16_t *)row + i);
    return (vec)(__builtin_convertvector(narrow, uvec) << 16);
}

static inline float logit_at(int bf16, const void *row, long i) {
    return bf16 ? from_bf16(((const uint16_t *)row)[i]) : ((const float *)row)[i];
}

/* n logits of a block as float32, and `after` after them. */
static inline void read_block(float *to, int bf16, const void *row, long v, long n, float after) {
    long i = 0;
    for (; i + LANES <= n; i += LANES) *(vec *)(to + i) = logits_at(bf16, row, v + i);
    for (; i < n; i++) to[i] = logit_at(bf16, row, v + i);
    for (; i < BLOCK; i++) to[i] = after;
}

/* The larger of two, m where x is NaN. */
static inline vec larger(vec x, vec m) {
#if defined(__AVX512F__)
    return (vec)_mm512_max_ps((__m512)x, (__m512)m);
#else
    ivec above = x > m;
    return (vec)(((ivec)x & above) | ((ivec)m & ~above));
#endif
}

static inline vec at_least(vec x, float least) { return larger((vec){} + least, x); } /* NaN stays NaN */

static inline float top(vec m) {
    float found = m[0];
    for (int i = 1; i < LANES; i++) found = m[i] > found ? m[i] : found;
    return found;
}

/* exp(x) for x <= 0, relative error below 2e-7; NaN stays NaN, anything below -87 counts as nothing. */
static inline vec exp_below_zero(vec x) {
    x = at_least(x, -87.0f);
    ivec n = __builtin_convertvector(x * 1.44269504f - 0.5f, ivec); /* towards zero: the nearest integer, as x <= 0 */
    vec k = __builtin_convertvector(n, vec), r = (x - k * 0.693359375f) + k * 2.12194440e-4f;
    vec s = r * r;
    vec p = (1.9875691500e-4f * r + 1.3981999507e-3f) * s * s + ((8.3334519073e-3f * r + 4.1665795894e-2f) * s + (1.6666665459e-1f * r + 5.0000001201e-1f));
    p = p * r * r + r + 1.0f;
    return p * (vec)((n + 127) << 23);
}

/* What logits x of a row add to its normaliser and its entropy: the largest logit m, the sum of exp(x - m), and of (x - m) exp(x - m). */
typedef struct { float largest; double total, mean; } running;
#define NOTHING ((running){-FLT_MAX, 0, 0})

/* Of a block; summed in float32. `mean` is 0 unless it is wanted, a constant. */
static inline __attribute__((always_inline)) running share_of(const float *logits, const int with_mean) {
    vec m = *(const vec *)logits, s = {}, t = {};
    for (int i = LANES; i < BLOCK; i += LANES) m = larger(*(const vec *)(logits + i), m);
    float largest = top(m);
    for (int i = 0; i < BLOCK; i += LANES) {
        vec below = *(const vec *)(logits + i) - largest, e = exp_below_zero(below);
        s += e;
        if (with_mean) t += at_least(below, -87.0f) * e;
    }
    return (running){largest, sum(s), with_mean ? sum(t) : 0};
}

static inline void join(running *all, running more) {
    if (more.largest == -INFINITY) return; /* without mass; a NaN among nothing but -infinity is not seen */
    double by = (double)more.largest - all->largest;
    if (by > 0) {
        double less = exp(-by);
        all->mean = (all->mean - by * all->total) * less + more.mean;
        all->total = all->total * less + more.total;
        all->largest = more.largest;
    } else {
        double less = exp(by);
        all->mean += (more.mean + by * more.total) * less;
        all->total += more.total * less;
    }
}

static inline float log_z_of(running all) { return (float)(all.largest + log(all.total)); }

/* Entropy in nats of the softmax: ln S - T / S for S = sum exp(x - m), T = sum (x - m) exp(x - m) and any m. NaN where nothing has mass. */
static inline float row_entropy(running all) { return (float)(log(all.total) - all.mean / all.total); }

/* ln x for normal x > 0, relative error below 2e-7 where |ln x| > 0.1, absolute below 1e-7 elsewhere; NaN stays NaN. */
static inline vec log_above_zero(vec x) {
    ivec bits = (ivec)x;
    vec e = __builtin_convertvector((bits >> 23) - 126, vec), m = (vec)((bits & 0x007fffff) | 0x3f000000); /* in [1/2, 1) */
    ivec low = m < 0.70710678f;
    e += __builtin_convertvector(low, vec); /* true is -1 */
    m += (vec)((ivec)m & low) - 1.0f;
    vec z = m * m, y = z * z;
    vec p = (7.0376836292e-2f * m - 1.1514610310e-1f) * z + (1.1676998740e-1f * m - 1.2420140846e-1f);
    vec q = (1.4249322787e-1f * m - 1.6668057665e-1f) * z + (2.0000714765e-1f * m - 2.4999993993e-1f);
    p = (p * y + q) * m + 3.3333331174e-1f;
    p = p * m * z - e * 2.12194440e-4f - z * 0.5f + m + e * 0.693359375f;
    return p + (x - x);
}
