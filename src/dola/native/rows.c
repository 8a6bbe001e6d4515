/* What decoding and scoring need of rows of logits [n, V]: normalisers, plausible tokens, divergences, entropies, sums.
 *
 * Sums over a block of BLOCK tokens are float32, over blocks float64. Blocks are joined in their order, so no result depends on the threads.
 */
#include <omp.h>

#include "vector.h"

static inline float row_log_z(int bf16, const void *row, long V) {
    running sum = NOTHING;
    float logits[BLOCK] ALIGNED;
    for (long v = 0; v < V; v += BLOCK) {
        read_block(logits, bf16, row, v, v + BLOCK < V ? BLOCK : V - v, -INFINITY);
        join(&sum, share_of(logits, 0));
    }
    return log_z_of(sum);
}

/* Log sum exp of R rows of V logits, `stride` elements apart. */
void dola_log_z(int bf16, const void *logits, float *log_z, long stride, long V, long R, int threads) {
    long bytes = bf16 ? 2 : 4;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long r = 0; r < R; r++) log_z[r] = row_log_z(bf16, (const char *)logits + r * stride * bytes, V);
}

/* What m <= BLOCK tokens share in K layers, `next` bytes apart; their q_log_z and open are n apart. */
static inline __attribute__((always_inline)) void jsd_block(
    int bf16, const char *p, const char *q, long next, float p_log_z, const float *q_log_z, const uint8_t *open, long n, float *shared,
    long m, long K) {
    float values[BLOCK] ALIGNED;
    vec log_p[BLOCK / LANES], mass[BLOCK / LANES];
    read_block(values, bf16, p, 0, m, -INFINITY);
    for (int j = 0; j < BLOCK / LANES; j++) {
        log_p[j] = at_least(((vec *)values)[j] - p_log_z, -87.0f);
        mass[j] = exp_below_zero(log_p[j]);
    }
    for (long k = 0; k < K; k++, q += next) {
        if (!open[k * n]) continue;
        vec total = {};
        float z = q_log_z[k * n];
        if (m < BLOCK) read_block(values, bf16, q, 0, m, -INFINITY);
        for (int j = 0; j < BLOCK / LANES; j++) {
            vec logits = m < BLOCK ? ((vec *)values)[j] : logits_at(bf16, q, j * LANES);
            vec lq = at_least(logits - z, -87.0f), other = exp_below_zero(lq), log_sum = log_above_zero(mass[j] + other);
            total += mass[j] * (log_sum - log_p[j]) + other * (log_sum - lq);
        }
        shared[k] = sum(total);
    }
}

/* Candidates that may diverge most, in n rows: open[K, n] is 1 for them. What p and a candidate share is known exactly over the tokens with
 * p >= 1e-6; what they share beyond is at most f of the masses that remain there, f(a, b) = (a+b) ln(a+b) - a ln a - b ln b, because f is
 * concave and homogeneous. All stay open where a normaliser is NaN. Other arguments: see dola_jsd; ids: room for V + LANES tokens a thread. */
static inline double entropy_of(double mass) { return mass > 0 ? -mass * log(mass) : 0; }

static long likely_tokens(int bf16, const char *row, long V, float least, int32_t *ids) {
    long count = 0, v = 0;
#if defined(__AVX512F__)
    __m512i id = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    for (; v + LANES <= V; v += LANES, id = _mm512_add_epi32(id, _mm512_set1_epi32(LANES))) {
        __mmask16 likely = _mm512_cmp_ps_mask((__m512)logits_at(bf16, row, v), _mm512_set1_ps(least), _CMP_GE_OQ);
        _mm512_storeu_si512(ids + count, _mm512_maskz_compress_epi32(likely, id));
        count += __builtin_popcount(likely);
    }
#endif
    for (; v < V; v++) {
        ids[count] = v;
        count += logit_at(bf16, row, v) >= least;
    }
    return count;
}

int dola_contenders(int bf16, const void *p, const void *q, const int64_t *p_rows, const int64_t *q_rows, const float *p_log_z,
                    const float *q_log_z, uint8_t *open, int32_t *ids, long p_stride, long k_stride, long q_stride, long V, long K, long n,
                    int threads) {
    const double rounding = 1e-5, mass_rounding = 1e-6; /* allowances for float32: nats, and a mass */
    long bytes = bf16 ? 2 : 4;
    double *sums = calloc(2 * K * n, sizeof(double));
    if (!sums) return 1;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long i = 0; i < n; i++) {
        const char *row = (const char *)p + p_rows[i] * p_stride * bytes, *layers = (const char *)q + q_rows[i] * q_stride * bytes;
        int32_t *likely = ids + omp_get_thread_num() * (V + LANES);
        long count = likely_tokens(bf16, row, V, p_log_z[i] - 13.8155106f, likely); /* ln 1e-6 */
        double *shared = sums + 2 * K * i, *mass = shared + K, p_mass = 0, least = INFINITY;
        for (long at = 0; at < count; at += BLOCK) {
            long m = at + BLOCK < count ? BLOCK : count - at, vectors = (m + LANES - 1) / LANES;
            float log_p[BLOCK] ALIGNED, log_q[BLOCK] ALIGNED;
            vec a[BLOCK / LANES], p_total = {};
            for (long j = 0; j < vectors * LANES; j++) log_p[j] = j < m ? logit_at(bf16, row, likely[at + j]) - p_log_z[i] : -INFINITY;
            for (long j = 0; j < vectors; j++) {
                vec lp = at_least(((vec *)log_p)[j], -87.0f);
                ((vec *)log_p)[j] = lp;
                p_total += a[j] = exp_below_zero(lp);
            }
            p_mass += sum(p_total);
            for (long k = 0; k < K; k++) {
                vec total = {}, q_total = {};
                float z = q_log_z[k * n + i];
                for (long j = 0; j < vectors * LANES; j++)
                    log_q[j] = j < m ? logit_at(bf16, layers + k * k_stride * bytes, likely[at + j]) - z : -INFINITY;
                for (long j = 0; j < vectors; j++) {
                    vec lp = ((vec *)log_p)[j], lq = at_least(((vec *)log_q)[j], -87.0f), b = exp_below_zero(lq);
                    vec log_sum = log_above_zero(a[j] + b);
                    total += a[j] * (log_sum - lp) + b * (log_sum - lq);
                    q_total += b;
                }
                shared[k] += sum(total), mass[k] += sum(q_total);
            }
        }
        double p_left = fmax(1 - p_mass, 0) + mass_rounding;
        for (long k = 0; k < K; k++) {
            double q_left = fmax(1 - mass[k], 0) + mass_rounding;
            double most = shared[k] + entropy_of(p_left) + entropy_of(q_left) - entropy_of(p_left + q_left) + rounding;
            if (!(most >= least)) least = most; /* NaN stays */
        }
        for (long k = 0; k < K; k++) open[k * n + i] = !(shared[k] > least);
    }
    free(sums);
    return 0;
}

/* JSD - ln 2 = -1/2 sum p ln((p+q)/p) + q ln((p+q)/q) of K layers' rows from n mature ones: far layers share next to nothing with the mature one,
 * and ln 2 would swallow the difference. Log-probabilities are at least -87, below which there is no mass that counts.
 *
 * p: mature logits, row p_rows[i] of `p_stride` elements a row; q: the layers' logits, k_stride elements a layer, in it row q_rows[i] of q_stride.
 * p_log_z [n], q_log_z [K, n]: their log sum exp. open [K, n]: 0 where -infinity will do instead. jsd: [K, n]. Returns 0, or 1 where memory
 * ran out. */
int dola_jsd(int bf16, const void *p, const void *q, const int64_t *p_rows, const int64_t *q_rows, const float *p_log_z, const float *q_log_z,
             const uint8_t *open, float *jsd, long p_stride, long k_stride, long q_stride, long V, long K, long n, int threads) {
    long blocks = (V + BLOCK - 1) / BLOCK, bytes = bf16 ? 2 : 4;
    float *shared = malloc(sizeof(float) * blocks * K * n);
    if (!shared) return 1;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long each = 0; each < n * blocks; each++) {
        long i = each / blocks, v = each % blocks * BLOCK, m = v + BLOCK < V ? BLOCK : V - v;
        const char *row = (const char *)p + (p_rows[i] * p_stride + v) * bytes, *layers = (const char *)q + (q_rows[i] * q_stride + v) * bytes;
        if (bf16)
            jsd_block(1, row, layers, 2 * k_stride, p_log_z[i], q_log_z + i, open + i, n, shared + each * K, m, K);
        else
            jsd_block(0, row, layers, 4 * k_stride, p_log_z[i], q_log_z + i, open + i, n, shared + each * K, m, K);
    }
    for (long i = 0; i < n; i++)
        for (long k = 0; k < K; k++) {
            double total = 0;
            for (long b = 0; b < blocks && open[k * n + i]; b++) total += shared[(i * blocks + b) * K + k];
            jsd[k * n + i] = open[k * n + i] ? (float)(-0.5 * total) : -INFINITY;
        }
    free(shared);
    return 0;
}

/* The plausible tokens of R rows, in two steps, so that the caller can make room for them. A row falls into parts of PART tokens.
 * First: log_z (computed if `known` is 0), the least plausible logit (the largest one plus `margin`), and how many tokens of each part are plausible.
 * Then: scores, logits minus the row's `less`; and row and token of each plausible one, from place places[part] on, in order.
 * A row whose log_z is NaN has no plausible token. */
#define PART (64 * BLOCK)

int dola_count(int bf16, const void *logits, float *log_z, float *least, int64_t *counts, int known, float margin, long stride, long V, long R,
               int threads) {
    long parts = (V + PART - 1) / PART, bytes = bf16 ? 2 : 4;
    running *sums = malloc(sizeof(running) * parts * R);
    if (!sums) return 1;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long each = 0; each < parts * R; each++) {
        const char *row = (const char *)logits + each / parts * stride * bytes;
        long from = each % parts * PART, to = from + PART < V ? from + PART : V;
        float x[BLOCK] ALIGNED;
        sums[each] = NOTHING;
        vec most = (vec){} - INFINITY;
        for (long v = from; v < to; v += BLOCK) {
            read_block(x, bf16, row, v, v + BLOCK < to ? BLOCK : to - v, -INFINITY);
            if (!known) join(sums + each, share_of(x, 0));
            else for (int i = 0; i < BLOCK / LANES; i++) most = larger(((vec *)x)[i], most);
        }
        if (known) sums[each].largest = top(most), sums[each].total = 1;
    }
    for (long r = 0; r < R; r++) {
        running all = NOTHING;
        for (long part = 0; part < parts; part++) join(&all, sums[r * parts + part]);
        if (!known) log_z[r] = log_z_of(all);
        least[r] = log_z[r] != log_z[r] ? NAN : log_z[r] == -INFINITY ? -INFINITY : all.largest + margin;
    }
    free(sums);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long each = 0; each < parts * R; each++) {
        const char *row = (const char *)logits + each / parts * stride * bytes;
        long v = each % parts * PART, to = v + PART < V ? v + PART : V, found = 0;
        ivec inside = {};
        float limit = least[each / parts];
        for (; v + LANES <= to; v += LANES) inside -= logits_at(bf16, row, v) >= limit; /* true is -1 */
        for (int i = 0; i < LANES; i++) found += inside[i];
        for (; v < to; v++) found += logit_at(bf16, row, v) >= limit;
        counts[each] = found;
    }
    return 0;
}

void dola_place(int bf16, const void *logits, const float *less, const float *least, const int64_t *places, float *scores, int64_t *rows,
                int64_t *tokens, long stride, long V, long R, int threads) {
    long parts = (V + PART - 1) / PART, bytes = bf16 ? 2 : 4;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long each = 0; each < parts * R; each++) {
        long r = each / parts, v = each % parts * PART, to = v + PART < V ? v + PART : V, at = places[each];
        const char *row = (const char *)logits + r * stride * bytes;
        float limit = least[r], l = less[r];
        while (v < to) {
            long end = v + BLOCK < to ? v + BLOCK : to, i = v;
            ivec inside = {};
            for (; i + LANES <= end; i += LANES) {
                vec x = logits_at(bf16, row, i);
                inside |= x >= limit;
                *(load_f *)(scores + r * V + i) = x - l;
            }
            for (; i < end; i++) {
                float x = logit_at(bf16, row, i);
                inside[0] |= -(x >= limit);
                scores[r * V + i] = x - l;
            }
            for (i = 0; i < LANES && !inside[i]; i++);
            if (i < LANES) /* few blocks have a plausible token */
                for (i = v; i < end; i++)
                    if (logit_at(bf16, row, i) >= limit) rows[at] = r, tokens[at++] = i;
            v = end;
        }
    }
}

/* Entropies in nats of softmax of R rows of V logits, `stride` elements apart. */
int dola_entropy(int bf16, const void *logits, float *entropy, long stride, long V, long R, int threads) {
    long blocks = (V + BLOCK - 1) / BLOCK, bytes = bf16 ? 2 : 4;
    running *shares = malloc(sizeof(running) * blocks * R);
    if (!shares) return 1;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long each = 0; each < blocks * R; each++) {
        long v = each % blocks * BLOCK;
        float x[BLOCK] ALIGNED;
        read_block(x, bf16, (const char *)logits + each / blocks * stride * bytes, v, v + BLOCK < V ? BLOCK : V - v, -INFINITY);
        shares[each] = share_of(x, 1);
    }
    for (long r = 0; r < R; r++) {
        running all = NOTHING;
        for (long b = 0; b < blocks; b++) join(&all, shares[r * blocks + b]);
        entropy[r] = row_entropy(all);
    }
    free(shares);
    return 0;
}

extern int omp_get_thread_num(void);

/* One row of a layer beside the mature one: what both passes share. `log_p` and `p` are the mature row's, `e` is room for the layer's
 * exponentials, each block's below its largest logit, and `largest` for those: the second pass need not take them again. */
typedef struct { float *log_p, *p, *e, *largest; } room;

static inline float layer_log_z(int bf16, const void *row, long V, room at) {
    running sum = NOTHING;
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
        join(&sum, (running){top, total, 0});
    }
    return log_z_of(sum);
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
            join(gain + s, share_of(f, 0));
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
            for (long s = 0; s < S; s++) gain[s] = NOTHING;
            diverged found = {0, 0};
            if (reference) found = compare_row(bf16, q, z, at, V, 1, 1, strengths, gain, S);
            else if (jsd) found = compare_row(bf16, q, z, at, V, 1, 0, strengths, gain, S);
            else if (S) found = compare_row(bf16, q, z, at, V, 0, 0, strengths, gain, S);
            if (jsd) jsd[to] = (float)(-0.5 * found.shared);
            if (reference) reference[to] = (float)(0.5 * found.apart / V);
            for (long s = 0; s < S; s++) {
                gains[s * K * n + to] = log_z_of(gain[s]);
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
        float ms[BLOCK] ALIGNED, ls[BLOCK] ALIGNED;
        int32_t out[BLOCK] ALIGNED;
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
