/* A mobile block in float32 on a CPU; training/bottleneck.py says why and in what order.

   Between two convolutions lies what the first one gave, as it gave it: batch normalisation and PReLU are applied by
   the reader, and their sums are taken by the writer, while a tile of rows is in the cache. Each activation is so
   written once and read once forward, and read twice backward, where its gradient is written once and read once.

   Activations are (rows, channels) with a pixel's channels together, channels a multiple of 2 WIDE. `norm` is (5,
   channels): mean, 1 / standard deviation, gamma, beta, slope; y = act(gamma xhat + beta), xhat = (x - mean) rstd,
   act(v) = v or slope v below 0. `back` is (2, channels): the means over all rows of the gradient before the
   normalisation, and of its product with xhat.

   Work is cut into LANES shares, whatever the number of threads, and their sums are joined in order: the bits do not
   depend on it. Functions give 1 where memory is short. */

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "vectors.h"

enum { LANES = 8, TILE = 48, HIGH = 6, PANEL = 2 * WIDE };
/* TILE rows are a multiple of HIGH, and with up to 512 channels fit the second cache; HIGH x 2 sums fill the registers
   of AVX2 but for what is multiplied. Rows in buffers are PANEL longer than they must be, or those of a power of two
   fall on the same few lines of the cache. */

static inline int64_t first_of(int64_t lane, int64_t count) { return lane * count / LANES; }

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

static void *space(int64_t bytes) { return aligned_alloc(64, (bytes + 63) / 64 * 64); }

/* --- batch normalisation and PReLU of one vector of channels --- */

typedef struct {
    vec mean, rstd, gamma, beta, slope;
} Norm;

static inline Norm norm_at(const float *norm, int64_t channels, int64_t c) {
    return (Norm){at(norm + c), at(norm + channels + c), at(norm + 2 * channels + c), at(norm + 3 * channels + c),
                  at(norm + 4 * channels + c)};
}

static inline vec bent(vec x, Norm n) {
    vec v = (x - n.mean) * n.rstd * n.gamma + n.beta;
    return choose(v > 0, v, v * n.slope);
}

/* Sums over rows that make the gradients of beta, gamma and slope. */
typedef struct {
    vec level, tilt, under;
} Sums;

static inline void count(Sums *sums, vec x, vec dy, Norm n) {
    vec hat = (x - n.mean) * n.rstd, v = hat * n.gamma + n.beta, none = {0};
    vec inner = choose(v > 0, dy, dy * n.slope);
    sums->level += inner;
    sums->tilt += inner * hat;
    sums->under += choose(v > 0, none, dy * v);
}

static inline vec unbent(vec x, vec dy, Norm n, vec level, vec tilt) {
    vec hat = (x - n.mean) * n.rstd, v = hat * n.gamma + n.beta;
    return n.gamma * n.rstd * (choose(v > 0, dy, dy * n.slope) - level - hat * tilt);
}

/* --- tiles of rows --- */

/* What the next tile reads: it is asked for line by line while this one is multiplied. */
typedef struct {
    const float *from[3];
    int64_t lines[3], asked, each;
} Coming;

static inline void ask(Coming *coming) {
    for (int64_t i = 0; i < coming->each; i++) {
        int64_t line = coming->asked++;
        for (int64_t k = 0; k < 3; line -= coming->lines[k++])
            if (line < coming->lines[k]) {
                __builtin_prefetch(coming->from[k] + line * 16, 0, 2);
                break;
            }
    }
}

/* (TILE, channels) of x from `from` on, normalised where there is a norm, zeros below the last row. */
static void load(float *to, const float *x, int64_t rows, int64_t channels, const float *norm) {
    const int64_t stride = channels + PANEL;
    for (int64_t c = 0; c < channels; c += WIDE) {
        if (norm) {
            Norm n = norm_at(norm, channels, c);
            for (int64_t r = 0; r < rows; r++) put(to + r * stride + c, bent(at(x + r * channels + c), n));
        } else
            for (int64_t r = 0; r < rows; r++) put(to + r * stride + c, at(x + r * channels + c));
    }
    for (int64_t r = rows; r < TILE; r++) memset(to + r * stride, 0, channels * sizeof *to);
}

/* The same of the gradient before the normalisation. */
static void load_back(float *to, const float *x, const float *dy, int64_t rows, int64_t channels, const float *norm,
                      const float *back) {
    const int64_t stride = channels + PANEL;
    for (int64_t c = 0; c < channels; c += WIDE) {
        Norm n = norm_at(norm, channels, c);
        vec level = at(back + c), tilt = at(back + channels + c);
        for (int64_t r = 0; r < rows; r++)
            put(to + r * stride + c, unbent(at(x + r * channels + c), at(dy + r * channels + c), n, level, tilt));
    }
    for (int64_t r = rows; r < TILE; r++) memset(to + r * stride, 0, channels * sizeof *to);
}

/* Means and sums of squares about them, of rows met so far (Chan et al. 1979): nothing cancels, whatever the mean. */
typedef struct {
    double rows, *mean, *squares;
} Moments;

static void meet(Moments *so_far, const float *y, int64_t rows, int64_t channels) {
    const double each = 1.0 / rows, share = rows / (so_far->rows + rows), between = share * so_far->rows;
    for (int64_t c = 0; c < channels; c += WIDE) {
        vec about = at(y + c), sum = {0}, squares = {0};
        for (int64_t r = 0; r < rows; r++) {
            vec v = at(y + r * channels + c) - about;
            sum += v;
            squares += v * v;
        }
        float start[WIDE], one[WIDE], two[WIDE];
        put(start, about), put(one, sum), put(two, squares);
        double *means = so_far->mean + c, *spreads = so_far->squares + c;
        for (int64_t i = 0; i < WIDE; i++) {
            double mean = one[i] * each, apart = start[i] + mean - means[i];
            means[i] += apart * share;
            spreads[i] += two[i] - one[i] * mean + apart * apart * between;
        }
    }
    so_far->rows += rows;
}

/* Join what the lanes met into means, variances and 1 / standard deviations. */
static void settle(const Moments *lanes, int64_t channels, float epsilon, float *mean, float *variance, float *rstd) {
    for (int64_t c = 0; c < channels; c++) {
        double rows = 0, middle = 0, squares = 0;
        for (int64_t lane = 0; lane < LANES; lane++) {
            const double more = lanes[lane].rows, apart = lanes[lane].mean[c] - middle;
            if (!more) continue;
            middle += apart * more / (rows + more);
            squares += lanes[lane].squares[c] + apart * apart * rows * more / (rows + more);
            rows += more;
        }
        const double spread = squares / rows;
        mean[c] = (float)middle;
        variance[c] = (float)(spread > 0 || spread != spread ? spread : 0);
        rstd[c] = 1.0f / sqrtf(variance[c] + epsilon);
    }
}

static inline void pour(double *to, vec v) {
    float each[WIDE];
    put(each, v);
    for (int64_t i = 0; i < WIDE; i++) to[i] += each[i];
}

/* Add the sums of a tile to those of a lane: (3, channels). */
static inline void tell(double *lane, Sums sums, int64_t channels, int64_t c) {
    pour(lane + c, sums.level);
    pour(lane + channels + c, sums.tilt);
    pour(lane + 2 * channels + c, sums.under);
}

/* Join (LANES, count) in order. */
static void join_sums(const double *lanes, int64_t count, float *total) {
    for (int64_t i = 0; i < count; i++) {
        double sum = 0;
        for (int64_t lane = 0; lane < LANES; lane++) sum += lanes[lane * count + i];
        total[i] = (float)sum;
    }
}

static void join(const float *lanes, int64_t count, float *total) {
    for (int64_t i = 0; i < count; i++) {
        float sum = 0;
        for (int64_t lane = 0; lane < LANES; lane++) sum += lanes[lane * count + i];
        total[i] = sum;
    }
}

/* --- products of matrices --- */

/* Left alone, GCC reads what is multiplied from memory again in each product, which takes half again as long. */
#if defined(__x86_64__)
#define KEEP(v) __asm__("" : "+v"(v))
#else
#define KEEP(v)
#endif

/* Lay `depth` rows of `count` numbers, at from[i step + k depth_step], out as panels: all rows of the first PANEL, then
   of the next. */
static void pack(float *panels, const float *from, int64_t count, int64_t step, int64_t depth, int64_t depth_step) {
    for (int64_t i = 0; i < count; i++)
        for (int64_t k = 0; k < depth; k++)
            panels[i / PANEL * PANEL * depth + k * PANEL + i % PANEL] = from[i * step + k * depth_step];
}

/* Where `high` is a number that the compiler sees, the sums are in registers. */
#define UNROLLED static inline __attribute__((always_inline))

/* sums[i] += over `depth`: a[i a_row + k a_step] times the PANEL numbers at panel + k panel_step, i < high. */
UNROLLED void multiply(vec sums[][2], const int high, const float *a, int64_t a_row, int64_t a_step,
                       const float *panel, int64_t panel_step, int64_t depth) {
    for (int64_t k = 0; k < depth; k++) {
        vec left = at(panel), right = at(panel + WIDE);
        KEEP(left);
        KEEP(right);
#pragma GCC unroll 8
        for (int i = 0; i < high; i++) {
            sums[i][0] += a[i * a_row] * left;
            sums[i][1] += a[i * a_row] * right;
        }
        a += a_step;
        panel += panel_step;
    }
}

/* to[r] = a[r] times packed panels, a (TILE, depth); only `rows` rows are written, with `more` added if given. */
static void tile_product(const float *a, int64_t rows, int64_t depth, const float *panels, int64_t width, float *to,
                         const float *more, Coming *coming) {
    for (int64_t n = 0; n < width; n += PANEL)
        for (int64_t r = 0; r < rows; r += HIGH) {
            vec sums[HIGH][2] = {0};
            ask(coming);
            multiply(sums, HIGH, a + r * (depth + PANEL), depth + PANEL, 1, panels + n * depth, PANEL, depth);
            for (int64_t i = 0; i < HIGH && r + i < rows; i++)
                for (int64_t half = 0; half < 2; half++) {
                    const int64_t place = (r + i) * width + n + half * WIDE;
                    put(to + place, more ? sums[i][half] + at(more + place) : sums[i][half]);
                }
        }
}

/* `high` rows of `outer_product`, from row n on. */
UNROLLED void outer_rows(const int high, const float *d, int64_t width, const float *y, int64_t depth,
                         float *total) {
    vec sums[HIGH][2];
#pragma GCC unroll 8
    for (int i = 0; i < high; i++) sums[i][0] = at(total + i * depth), sums[i][1] = at(total + i * depth + WIDE);
    multiply(sums, high, d, 1, width + PANEL, y, depth + PANEL, TILE);
#pragma GCC unroll 8
    for (int i = 0; i < high; i++) put(total + i * depth, sums[i][0]), put(total + i * depth + WIDE, sums[i][1]);
}

/* total (width, depth) += d' y of a tile: d (TILE, width), y (TILE, depth). */
static void outer_product(const float *d, int64_t width, const float *y, int64_t depth, float *total,
                          Coming *coming) {
    for (int64_t k = 0; k < depth; k += PANEL) {
        int64_t n = 0;
        for (; n + HIGH <= width; n += HIGH) {
            ask(coming);
            outer_rows(HIGH, d + n, width, y + k, depth, total + n * depth + k);
        }
        for (; n < width; n += 2) outer_rows(2, d + n, width, y + k, depth, total + n * depth + k);
    }
}

/* --- 1x1 convolutions --- */

/* y (rows, width) = act(norm(x)) (rows, depth) weight', weight (width, depth); mean, variance and rstd of y. */
int pointwise(const float *x, int64_t rows, int64_t depth, const float *norm, const float *weight, int64_t width,
              float epsilon, float *y, float *mean, float *variance, float *rstd) {
    const int64_t tiles = (rows + TILE - 1) / TILE;
    float *panels = space(width * depth * sizeof *panels);
    float *buffers = space(LANES * TILE * (depth + PANEL) * sizeof *buffers);
    double *sums = calloc(LANES * 2 * width, sizeof *sums);
    Moments moments[LANES];
    if (!panels || !buffers || !sums) {
        free(panels), free(buffers), free(sums);
        return 1;
    }
    pack(panels, weight, width, depth, depth, 1);
#pragma omp parallel for schedule(static)
    for (int64_t lane = 0; lane < LANES; lane++) {
        float *tile = buffers + lane * TILE * (depth + PANEL);
        moments[lane] = (Moments){0, sums + lane * 2 * width, sums + (lane * 2 + 1) * width};
        for (int64_t t = first_of(lane, tiles); t < first_of(lane + 1, tiles); t++) {
            const int64_t from = t * TILE, here = least(TILE, rows - from);
            const int64_t next = least(TILE, rows - from - here);
            Coming coming = {{x + (from + TILE) * depth}, {next * depth / 16}, 0, 0};
            coming.each = next * depth / 16 / (TILE / HIGH * width / PANEL) + 1;
            load(tile, x + from * depth, here, depth, norm);
            tile_product(tile, here, depth, panels, width, y + from * width, NULL, &coming);
            meet(&moments[lane], y + from * width, here, width);
        }
    }
    settle(moments, width, epsilon, mean, variance, rstd);
    free(panels), free(buffers), free(sums);
    return 0;
}

/* Gradients of `pointwise`: dx (rows, depth), if wanted, is that of act(norm(x)), with `more` added if given; dnorm
   (3, depth) are the sums that make those of its beta, gamma and slope, where there is a norm. y is what came, dy the
   gradient behind its own normalisation `out`. */
int pointwise_back(const float *x, int64_t rows, int64_t depth, const float *norm, const float *weight, int64_t width,
                   const float *y, const float *dy, const float *out, const float *back, const float *more, float *dx,
                   float *dweight, float *dnorm) {
    const int64_t tiles = (rows + TILE - 1) / TILE, size = TILE * (depth + width + 2 * PANEL);
    float *panels = space(width * depth * sizeof *panels);
    float *buffers = space(LANES * size * sizeof *buffers);
    float *products = calloc(LANES * width * depth, sizeof *products);
    double *sums = calloc(LANES * 3 * depth, sizeof *sums);
    if (!panels || !buffers || !products || !sums) {
        free(panels), free(buffers), free(products), free(sums);
        return 1;
    }
    pack(panels, weight, depth, 1, width, depth);
#pragma omp parallel for schedule(static)
    for (int64_t lane = 0; lane < LANES; lane++) {
        float *before = buffers + lane * size, *d = before + TILE * (depth + PANEL);
        for (int64_t t = first_of(lane, tiles); t < first_of(lane + 1, tiles); t++) {
            const int64_t from = t * TILE, here = least(TILE, rows - from);
            const float *xs = x + from * depth;
            float *dxs = dx ? dx + from * depth : NULL;
            const int64_t next = least(TILE, rows - from - here), steps = depth / PANEL * (width / HIGH + TILE / HIGH);
            Coming coming = {{x + (from + TILE) * depth, y + (from + TILE) * width, dy + (from + TILE) * width},
                             {next * depth / 16, next * width / 16, next * width / 16}, 0,
                             next * (depth + 2 * width) / 16 / steps + 1};
            load(before, xs, here, depth, norm);
            load_back(d, y + from * width, dy + from * width, here, width, out, back);
            outer_product(d, width, before, depth, products + lane * width * depth, &coming);
            if (!dx) continue;
            tile_product(d, here, width, panels, depth, dxs, more ? more + from * depth : NULL, &coming);
            for (int64_t c = 0; norm && c < depth; c += WIDE) {
                Norm n = norm_at(norm, depth, c);
                Sums found = {0};
                for (int64_t r = 0; r < here; r++) count(&found, at(xs + r * depth + c), at(dxs + r * depth + c), n);
                tell(sums + lane * 3 * depth, found, depth, c);
            }
        }
    }
    join(products, width * depth, dweight);
    if (norm) join_sums(sums, 3 * depth, dnorm);
    free(panels), free(buffers), free(products), free(sums);
    return 0;
}

/* --- 3x3 depthwise convolutions --- */

/* Three rows of an image, with a column of zeros on either side; row r of the image is found at (r + 1) % 3. */
typedef struct {
    float *rows;
    int64_t width, channels;
} Ring;

static inline int64_t ring_size(int64_t width, int64_t channels) { return 3 * (width + 2) * (channels + PANEL); }

static inline float *row_of(Ring ring, int64_t r) { /* its column -1 */
    return ring.rows + (r + 1) % 3 * (ring.width + 2) * (ring.channels + PANEL);
}

/* Put row r of the image there; rows outside of it are zeros. */
static void enter(Ring ring, int64_t r, const float *image, int64_t height, const float *norm) {
    const int64_t stride = ring.channels + PANEL;
    float *to = row_of(ring, r) + stride;
    if (r < 0 || r >= height) {
        memset(to, 0, ring.width * stride * sizeof *to);
        return;
    }
    const float *x = image + r * ring.width * ring.channels;
    for (int64_t c = 0; c < ring.channels; c += WIDE) {
        Norm n = norm_at(norm, ring.channels, c);
        for (int64_t j = 0; j < ring.width; j++) put(to + j * stride + c, bent(at(x + j * ring.channels + c), n));
    }
}

/* y (images, outs, outs_wide, channels) = 3x3 convolution, padded by 1, of act(norm(x)) (images, height, width,
   channels) with kernel (9, channels); mean, variance and rstd of y. */
int depthwise(const float *x, int64_t images, int64_t height, int64_t width, int64_t channels, int64_t step,
              const float *norm, const float *kernel, float epsilon, float *y, float *mean, float *variance,
              float *rstd) {
    const int64_t outs = (height - 1) / step + 1, outs_wide = (width - 1) / step + 1, stride = channels + PANEL;
    float *rings = calloc(LANES * ring_size(width, channels), sizeof *rings);
    double *sums = calloc(LANES * 2 * channels, sizeof *sums);
    Moments moments[LANES];
    if (!rings || !sums) {
        free(rings), free(sums);
        return 1;
    }
#pragma omp parallel for schedule(static)
    for (int64_t lane = 0; lane < LANES; lane++) {
        Ring ring = {rings + lane * ring_size(width, channels), width, channels};
        moments[lane] = (Moments){0, sums + lane * 2 * channels, sums + (lane * 2 + 1) * channels};
        for (int64_t image = first_of(lane, images); image < first_of(lane + 1, images); image++) {
            const float *from = x + image * height * width * channels;
            int64_t entered = -1;
            for (int64_t o = 0; o < outs; o++) {
                float *to = y + (image * outs + o) * outs_wide * channels;
                for (; entered <= o * step + 1; entered++) enter(ring, entered, from, height, norm);
                const float *above = row_of(ring, o * step - 1), *middle = row_of(ring, o * step),
                            *below = row_of(ring, o * step + 1);
                const int64_t next = o + 1 < outs ? least(step, height - entered) * width * channels / 16 : 0;
                Coming coming = {{from + entered * width * channels}, {next}, 0, next / outs_wide + 1};
                for (int64_t j = 0; j < outs_wide; j++) {
                    ask(&coming);
                    for (int64_t c = 0; c < channels; c += WIDE) {
                        const int64_t place = j * step * stride + c;
                        vec sum = {0};
#pragma GCC unroll 3
                        for (int64_t i = 0; i < 3; i++) {
                            sum += at(above + place + i * stride) * at(kernel + i * channels + c);
                            sum += at(middle + place + i * stride) * at(kernel + (3 + i) * channels + c);
                            sum += at(below + place + i * stride) * at(kernel + (6 + i) * channels + c);
                        }
                        put(to + j * channels + c, sum);
                    }
                }
                meet(&moments[lane], to, outs_wide, channels);
            }
        }
    }
    settle(moments, channels, epsilon, mean, variance, rstd);
    free(rings), free(sums);
    return 0;
}

/* What one row of gradients d (outs_wide, channels) adds to the kernel's gradient, and to those of the rows that it
   came from: in each channel, spread[i][j step + k] += kernel[i, k] d[j], dkernel[i, k] += seen[i][j step + k] d[j]. */
static void depthwise_row_back(const float *d, int64_t outs_wide, int64_t channels, int64_t step, const float *kernel,
                               float *const spread[3], const float *const seen[3], float *dkernel, Coming *coming) {
    const int64_t stride = channels + PANEL;
    for (int64_t c = 0; c < channels; c += WIDE) {
        vec found[9];
#pragma GCC unroll 9
        for (int64_t k = 0; k < 9; k++) found[k] = at(dkernel + k * channels + c);
        for (int64_t j = 0; j < outs_wide; j++) {
            const vec here = at(d + j * stride + c);
            ask(coming);
            const int64_t place = j * step * stride + c;
#pragma GCC unroll 9
            for (int64_t k = 0; k < 9; k++) {
                float *to = spread[k / 3] + place + k % 3 * stride;
                put(to, at(to) + here * at(kernel + k * channels + c));
                found[k] += here * at(seen[k / 3] + place + k % 3 * stride);
            }
        }
#pragma GCC unroll 9
        for (int64_t k = 0; k < 9; k++) put(dkernel + k * channels + c, found[k]);
    }
}

/* Write what has been gathered for row r, and count it. */
static void leave(Ring spread, int64_t r, const float *image, float *gradient, const float *norm, double *sums) {
    const int64_t stride = spread.channels + PANEL, start = r * spread.width * spread.channels;
    const float *from = row_of(spread, r) + stride;
    for (int64_t c = 0; c < spread.channels; c += WIDE) {
        Norm n = norm_at(norm, spread.channels, c);
        Sums found = {0};
        for (int64_t j = 0; j < spread.width; j++) {
            const vec dy = at(from + j * stride + c);
            put(gradient + start + j * spread.channels + c, dy);
            count(&found, at(image + start + j * spread.channels + c), dy, n);
        }
        tell(sums, found, spread.channels, c);
    }
}

/* Gradients of `depthwise`, as `pointwise_back` has them; dkernel is (9, channels). */
int depthwise_back(const float *x, int64_t images, int64_t height, int64_t width, int64_t channels, int64_t step,
                   const float *norm, const float *kernel, const float *y, const float *dy, const float *out,
                   const float *back, float *dx, float *dkernel, float *dnorm) {
    const int64_t outs = (height - 1) / step + 1, outs_wide = (width - 1) / step + 1, stride = channels + PANEL;
    const int64_t size = 2 * ring_size(width, channels) + TILE * ((outs_wide + TILE - 1) / TILE) * stride;
    float *buffers = calloc(LANES * size, sizeof *buffers);
    float *kernels = calloc(LANES * 9 * channels, sizeof *kernels);
    double *sums = calloc(LANES * 3 * channels, sizeof *sums);
    if (!buffers || !kernels || !sums) {
        free(buffers), free(kernels), free(sums);
        return 1;
    }
#pragma omp parallel for schedule(static)
    for (int64_t lane = 0; lane < LANES; lane++) {
        Ring seen = {buffers + lane * size, width, channels};
        Ring spread = {seen.rows + ring_size(width, channels), width, channels};
        float *d = spread.rows + ring_size(width, channels);
        for (int64_t image = first_of(lane, images); image < first_of(lane + 1, images); image++) {
            const float *from = x + image * height * width * channels;
            float *to = dx + image * height * width * channels;
            int64_t entered = -1, left = 0;
            for (int64_t o = 0; o < outs; o++) {
                const int64_t start = (image * outs + o) * outs_wide * channels;
                for (; entered <= o * step + 1; entered++) {
                    enter(seen, entered, from, height, norm);
                    memset(row_of(spread, entered), 0, (width + 2) * stride * sizeof(float));
                }
                for (int64_t j = 0; j < outs_wide; j += TILE)
                    load_back(d + j * stride, y + start + j * channels, dy + start + j * channels,
                              least(TILE, outs_wide - j), channels, out, back);
                const int64_t more = o + 1 < outs ? outs_wide * channels / 16 : 0;
                const int64_t next = o + 1 < outs ? least(step, height - entered) * width * channels / 16 : 0;
                const int64_t beyond = start + outs_wide * channels;
                Coming coming = {{from + entered * width * channels, y + beyond, dy + beyond}, {next, more, more}, 0,
                                 (next + 2 * more) / (outs_wide * channels / WIDE) + 1};
                float *const spreads[3] = {row_of(spread, o * step - 1), row_of(spread, o * step),
                                           row_of(spread, o * step + 1)};
                const float *const seens[3] = {row_of(seen, o * step - 1), row_of(seen, o * step),
                                               row_of(seen, o * step + 1)};
                depthwise_row_back(d, outs_wide, channels, step, kernel, spreads, seens,
                                   kernels + lane * 9 * channels, &coming);
                const int64_t ready = o + 1 < outs ? (o + 1) * step - 1 : height;
                for (; left < ready; left++) leave(spread, left, from, to, norm, sums + lane * 3 * channels);
            }
        }
    }
    join(kernels, 9 * channels, dkernel);
    join_sums(sums, 3 * channels, dnorm);
    free(buffers), free(kernels), free(sums);
    return 0;
}

/* --- the end of a chain --- */

/* y = act(norm(x)), with `more` added if given. */
int normalise(const float *x, int64_t rows, int64_t channels, const float *norm, const float *more, float *y) {
#pragma omp parallel for schedule(static)
    for (int64_t lane = 0; lane < LANES; lane++)
        for (int64_t r = first_of(lane, rows); r < first_of(lane + 1, rows); r++)
            for (int64_t c = 0; c < channels; c += WIDE) {
                const int64_t place = r * channels + c;
                vec v = bent(at(x + place), norm_at(norm, channels, c));
                put(y + place, more ? v + at(more + place) : v);
            }
    return 0;
}

/* Of the gradient dy of act(norm(x)), the sums that make those of beta, gamma and slope. */
int normalise_back(const float *x, const float *dy, int64_t rows, int64_t channels, const float *norm, float *dnorm) {
    const int64_t tiles = (rows + TILE - 1) / TILE;
    double *sums = calloc(LANES * 3 * channels, sizeof *sums);
    if (!sums) return 1;
#pragma omp parallel for schedule(static)
    for (int64_t lane = 0; lane < LANES; lane++)
        for (int64_t t = first_of(lane, tiles); t < first_of(lane + 1, tiles); t++)
            for (int64_t c = 0; c < channels; c += WIDE) {
                Norm n = norm_at(norm, channels, c);
                Sums found = {0};
                for (int64_t r = t * TILE; r < least((t + 1) * TILE, rows); r++)
                    count(&found, at(x + r * channels + c), at(dy + r * channels + c), n);
                tell(sums + lane * 3 * channels, found, channels, c);
            }
    join_sums(sums, 3 * channels, dnorm);
    free(sums);
    return 0;
}
