/* The LM head: logits [R, V] = rows [R, d] x weight [V, d]^T, and log sum exp and entropy of each row.
 *
 * Decoding reads the head's weights once a token. DoLa wants the product for K + 1 rows (mature and premature) instead of one, and in
 * batches for hundreds. So the weights stream through the cores once, and each part of them is multiplied with all rows while it is in cache.
 *
 * A *word* is one float, or two bfloat16 that lie side by side. A *panel* is PANEL vocabulary entries, turned so that word i of all of them
 * is two vectors. A *tile* is up to TILE rows, turned so that word i of all of them lies side by side. A step of the product multiplies two vectors of a
 * panel by each word of a tile: the sums stay in registers, one for each token, and need not be added across lanes at the end.
 * Each logit is one sum in the order of the words, whatever the number of rows: a row's logits do not depend on its batch.
 *
 * Accumulation is in float32. bfloat16 logits are rounded to nearest even, as the model's own are; normalisers and entropies are those of the rounded logits.
 */
#include <omp.h>

#include "vector.h"

#if BYTES == 64
#define TILE 12 /* rows at a time: two sums each stay in registers */
#else
#define TILE 6
#endif
#define PANEL (2 * LANES)
#define FEWEST (8 * TILE) /* rows in a pass over the weights, if there are as many: else the pass costs more than it saves */
#define MOST (20 * TILE)
#define CACHED (384 << 10) /* bytes of rows that stay in a core's cache beside a panel; measured with float32 rows of 576 */
/* a + w * x: w are LANES words of the panel, x is one word of a row. */
static inline vec multiply(int bf16, vec a, uvec w, uint32_t x) {
    uvec all = (uvec){} + x;
    if (!bf16) return a + (vec)w * (vec)all;
#if defined(__AVX512BF16__)
    return (vec)_mm512_dpbf16_ps((__m512)a, (__m512bh)w, (__m512bh)all);
#else
    a += (vec)(w << 16) * (vec)(all << 16);
    return a + (vec)(w & 0xffff0000u) * (vec)(all & 0xffff0000u);
#endif
}

/* Lanes of x and y: those of x where bit `s` of the lane is clear, and y's from `s` below where it is set; and the other way round. */
#define FIRST(i, s) ((i) & (s) ? LANES + (i) - (s) : (i))
#define SECOND(i, s) ((i) & (s) ? LANES + (i) : (i) + (s))
#define FOUR(OF, i, s) OF(i, s), OF(i + 1, s), OF(i + 2, s), OF(i + 3, s)
#if LANES == 16
#define ALL(OF, s) FOUR(OF, 0, s), FOUR(OF, 4, s), FOUR(OF, 8, s), FOUR(OF, 12, s)
#elif LANES == 8
#define ALL(OF, s) FOUR(OF, 0, s), FOUR(OF, 4, s)
#else
#define ALL(OF, s) FOUR(OF, 0, s)
#endif
#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLE(x, y, ...) __builtin_shufflevector(x, y, __VA_ARGS__)
#else
#define SHUFFLE(x, y, ...) __builtin_shuffle(x, y, (uvec){__VA_ARGS__})
#endif
#define EXCHANGE(s)                                                                \
    _Pragma("GCC unroll 16") for (int i = 0; i < LANES; i++)                       \
        if (!(i & (s))) {                                                          \
            uvec x = v[i], y = v[i + (s)];                                         \
            v[i] = SHUFFLE(x, y, ALL(FIRST, s));                                   \
            v[i + (s)] = SHUFFLE(x, y, ALL(SECOND, s));                            \
        }

/* Turn n <= PANEL rows of `words` words (a multiple of LANES) into a panel. Columns after the n-th repeat the last row. */
static void turn(uvec *panel, const uint32_t *weight, long words, long n) {
    for (int side = 0; side < 2; side++)
        for (long at = 0; at < words; at += LANES) {
            uvec v[LANES];
            _Pragma("GCC unroll 16") for (int i = 0; i < LANES; i++) {
                long row = side * LANES + i;
                v[i] = *(const load_u *)(weight + (row < n ? row : n - 1) * words + at);
            }
#if LANES == 16
            EXCHANGE(8)
#endif
#if LANES >= 8
            EXCHANGE(4)
#endif
            EXCHANGE(2)
            EXCHANGE(1)
            _Pragma("GCC unroll 16") for (int i = 0; i < LANES; i++) panel[2 * (at + i) + side] = v[i];
        }
}

/* Logits of R rows (a tile) for a panel, BLOCK apart. `next` are weights that will be needed soon, fetched `step` bytes a word. */
static inline __attribute__((always_inline)) void tile(
    int bf16, const uvec *panel, const uint32_t *rows, float *logits, long words, const char *next, long step, const int R) {
    vec a[TILE], b[TILE];
    for (int r = 0; r < R; r++) a[r] = b[r] = (vec){};
    for (long i = 0; i < words; i++) {
        __builtin_prefetch(next + i * step);
        __builtin_prefetch(next + i * step + 64);
        _Pragma("GCC unroll 12") for (int r = 0; r < R; r++) {
            a[r] = multiply(bf16, a[r], panel[2 * i], rows[i * R + r]);
            b[r] = multiply(bf16, b[r], panel[2 * i + 1], rows[i * R + r]);
        }
    }
    for (int r = 0; r < R; r++) {
        *(vec *)(logits + r * BLOCK) = a[r];
        *(vec *)(logits + r * BLOCK + LANES) = b[r];
    }
}

#define CASE(N) case N: tile(bf16, panel, rows, logits, words, next, step, N); break;
static inline __attribute__((always_inline)) void any_tile(
    int bf16, const uvec *panel, const uint32_t *rows, float *logits, long words, const char *next, long step, long R) {
    switch (R) { /* a constant number of rows in each, so that its sums are registers */
        CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6)
#if TILE == 12
        CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)
#endif
    }
}

/* n rounded logits of a row to their place, and what they add to its normaliser and entropy. */
static running finish(int bf16, float *logits, char *to, long n) {
    long i = 0;
    if (bf16) {
        for (; i + LANES <= n; i += LANES) {
            uvec bits = rounded(*(vec *)(logits + i));
            *(vec *)(logits + i) = (vec)bits;
            *(load_h *)(to + 2 * i) = __builtin_convertvector(bits >> 16, half);
        }
        for (; i < n; i++) {
            uint16_t narrow = to_bf16(logits[i]);
            ((uint16_t *)to)[i] = narrow;
            logits[i] = from_bf16(narrow);
        }
    } else {
        for (; i + LANES <= n; i += LANES) *(load_f *)(to + 4 * i) = *(vec *)(logits + i);
        for (; i < n; i++) ((float *)to)[i] = logits[i];
    }
    for (; i < BLOCK; i++) logits[i] = -INFINITY;
    return share_of(logits, 1);
}

/* One block of the vocabulary for the rows of a pass. */
static inline __attribute__((always_inline)) void block(
    int bf16, const uint32_t *weight, const uint32_t *rows, char *to, running *shares, long n, long V, long words, long R, uvec *panel,
    float *logits) {
    long tiles = (R + TILE - 1) / TILE;
    for (long v = 0; v < n; v += PANEL) {
        turn(panel, weight + v * words, words, n - v < PANEL ? n - v : PANEL);
        const char *next = (const char *)(weight + (v + PANEL) * words);
        for (long t = 0; t < tiles; t++) {
            long first = t * R / tiles, count = (t + 1) * R / tiles - first, step = t ? 0 : 4 * PANEL;
            any_tile(bf16, panel, rows + first * words, logits + first * BLOCK + v, words, next, step, count);
        }
    }
    for (long r = 0; r < R; r++) shares[r] = finish(bf16, logits + r * BLOCK, to + r * V * (bf16 ? 2 : 4), n);
}

/* Rows [R, words] as tiles, each turned. */
static void turn_rows(uint32_t *to, const uint32_t *rows, long words, long R) {
    long tiles = (R + TILE - 1) / TILE;
    for (long t = 0; t < tiles; t++) {
        long first = t * R / tiles, count = (t + 1) * R / tiles - first;
        for (long r = 0; r < count; r++)
            for (long i = 0; i < words; i++) to[first * words + i * count + r] = rows[(first + r) * words + i];
    }
}

static void some_rows(int bf16, const char *weight, const uint32_t *rows, char *logits, running *shares, long V, long words, long R,
                      uvec *scratch, long each, int threads) {
    long blocks = (V + BLOCK - 1) / BLOCK;
#pragma omp parallel num_threads(threads)
    {
        uvec *panel = scratch + omp_get_thread_num() * each;
        float *own = (float *)(panel + 2 * words);
#pragma omp for schedule(static)
        for (long b = 0; b < blocks; b++) {
            long v = b * BLOCK, n = v + BLOCK < V ? BLOCK : V - v;
            const uint32_t *w = (const uint32_t *)weight + v * words;
            if (bf16)
                block(1, w, rows, logits + 2 * v, shares + b * R, n, V, words, R, panel, own);
            else
                block(0, w, rows, logits + 4 * v, shares + b * R, n, V, words, R, panel, own);
        }
    }
}

/* bf16: 1 for bfloat16, 0 for float32. d must be a multiple of 32. Returns 0, or 1 where memory ran out. */
int dola_head(int bf16, const void *weight, const void *rows, void *logits, float *log_z, float *entropy, long V, long d, long R, int threads) {
    long blocks = (V + BLOCK - 1) / BLOCK, words = bf16 ? d / 2 : d, bytes = bf16 ? 2 : 4, fit = CACHED / (4 * words);
    long limit = fit < FEWEST ? FEWEST : fit > MOST ? MOST : fit, passes = (R + limit - 1) / limit;
    long most = (R + passes - 1) / (passes ? passes : 1); /* passes of equal sizes */
    long each = 2 * words + most * BLOCK / LANES; /* vectors of a thread: a panel, and the logits of a block */
    uvec *scratch = aligned_alloc(BYTES, BYTES * each * threads);
    uint32_t *turned = malloc(4 * words * most);
    running *shares = malloc(sizeof(running) * blocks * most);
    int failed = !scratch || !turned || !shares;
    for (long first = 0; first < R && !failed; first += most) {
        long n = R - first < most ? R - first : most;
        turn_rows(turned, (const uint32_t *)rows + first * words, words, n);
        some_rows(bf16, weight, turned, (char *)logits + first * V * bytes, shares, V, words, n, scratch, each, threads);
        for (long r = 0; r < n; r++) {
            running all = NOTHING;
            for (long b = 0; b < blocks; b++) join(&all, shares[b * n + r]);
            log_z[first + r] = log_z_of(all);
            entropy[first + r] = row_entropy(all);
        }
    }
    free(scratch), free(turned), free(shares);
    return failed;
}
