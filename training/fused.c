/* Batch normalisation and PReLU of bfloat16 activations in two passes each way; training/fused.py says why. Sums and
   products are in float32.

   x, y, dy and dx are (rows, channels) with a pixel's channels together, channels a multiple of 16; everything that is
   one number a channel is float. y = act(gamma xhat + beta), xhat = (x - mean) rstd, act(v) = v or slope v below 0.
   Sums are taken over tiles of rows in registers and joined in double, in the order of the tiles: the same bits with
   any number of threads. */

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "vectors.h"

typedef uint32_t words __attribute__((vector_size(BYTES)));
typedef uint16_t halves __attribute__((vector_size(BYTES / 2), aligned(2)));

enum { TILE = 128 };

static inline vec widen(const uint16_t *from) { /* bfloat16 is the upper half of a float */
    return (vec)(__builtin_convertvector(*(const halves *)from, words) << 16);
}

static inline void narrow(uint16_t *to, vec v) { /* to nearest, ties to even */
    words bits = (words)v;
    *(halves *)to = __builtin_convertvector((bits + 0x7fff + ((bits >> 16) & 1)) >> 16, halves);
}

/* Join (tiles, kinds, channels) partial sums into (kinds, channels). */
static void join(const float *parts, int64_t tiles, int64_t width, double *sums) {
    memset(sums, 0, width * sizeof *sums);
    for (int64_t t = 0; t < tiles; t++)
        for (int64_t i = 0; i < width; i++) sums[i] += parts[t * width + i];
}

int normalise(const uint16_t *x, int64_t rows, int64_t channels, const float *gamma, const float *beta,
              const float *slope, float epsilon, uint16_t *y, float *mean, float *variance, float *rstd) {
    const int64_t tiles = (rows + TILE - 1) / TILE;
    float *parts = malloc(tiles * 2 * channels * sizeof *parts);
    double *sums = malloc(2 * channels * sizeof *sums);
    float *first = malloc(channels * sizeof *first); /* sums of squares are taken about the first row, or they cancel */
    if (!parts || !sums || !first) {
        free(parts), free(sums), free(first);
        return 1;
    }
    for (int64_t c = 0; c < channels; c += WIDE) put(first + c, widen(x + c));
#pragma omp parallel for schedule(static)
    for (int64_t t = 0; t < tiles; t++) {
        const int64_t from = t * TILE, to = from + TILE < rows ? from + TILE : rows;
        for (int64_t c = 0; c < channels; c += WIDE) {
            vec sum = {0}, squares = {0}, about = at(first + c);
            for (int64_t r = from; r < to; r++) {
                vec v = widen(x + r * channels + c) - about;
                sum += v;
                squares += v * v;
            }
            put(parts + t * 2 * channels + c, sum);
            put(parts + (t * 2 + 1) * channels + c, squares);
        }
    }
    join(parts, tiles, 2 * channels, sums);
    for (int64_t c = 0; c < channels; c++) {
        double about = sums[c] / rows, spread = sums[channels + c] / rows - about * about;
        mean[c] = (float)(first[c] + about);
        variance[c] = (float)(spread > 0 || spread != spread ? spread : 0);
        rstd[c] = 1.0f / sqrtf(variance[c] + epsilon);
    }
#pragma omp parallel for schedule(static)
    for (int64_t t = 0; t < tiles; t++) {
        const int64_t from = t * TILE, to = from + TILE < rows ? from + TILE : rows;
        for (int64_t c = 0; c < channels; c += WIDE) {
            vec times = at(gamma + c) * at(rstd + c), plus = at(beta + c) - at(mean + c) * times, below = at(slope + c);
            for (int64_t r = from; r < to; r++) {
                vec v = widen(x + r * channels + c) * times + plus;
                narrow(y + r * channels + c, choose(v > 0, v, v * below));
            }
        }
    }
    free(parts), free(sums), free(first);
    return 0;
}

int normalise_back(const uint16_t *x, const uint16_t *dy, int64_t rows, int64_t channels, const float *gamma,
                   const float *beta, const float *slope, const float *mean, const float *rstd, uint16_t *dx,
                   float *dgamma, float *dbeta, float *dslope) {
    const int64_t tiles = (rows + TILE - 1) / TILE;
    float *parts = malloc(tiles * 3 * channels * sizeof *parts);
    double *sums = malloc(3 * channels * sizeof *sums);
    if (!parts || !sums) {
        free(parts), free(sums);
        return 1;
    }
#pragma omp parallel for schedule(static)
    for (int64_t t = 0; t < tiles; t++) {
        const int64_t from = t * TILE, to = from + TILE < rows ? from + TILE : rows;
        for (int64_t c = 0; c < channels; c += WIDE) {
            vec sum = {0}, product = {0}, under = {0}, none = {0};
            vec m = at(mean + c), s = at(rstd + c), g = at(gamma + c), b = at(beta + c), below = at(slope + c);
            for (int64_t r = from; r < to; r++) {
                vec hat = (widen(x + r * channels + c) - m) * s, d = widen(dy + r * channels + c), v = hat * g + b;
                vec inner = choose(v > 0, d, d * below);
                sum += inner;
                product += inner * hat;
                under += choose(v > 0, none, d * v);
            }
            put(parts + t * 3 * channels + c, sum);
            put(parts + (t * 3 + 1) * channels + c, product);
            put(parts + (t * 3 + 2) * channels + c, under);
        }
    }
    join(parts, tiles, 3 * channels, sums);
    for (int64_t c = 0; c < channels; c++) {
        dbeta[c] = (float)sums[c];
        dgamma[c] = (float)sums[channels + c];
        dslope[c] = (float)sums[2 * channels + c];
    }
    const float share = 1.0f / (float)rows;
#pragma omp parallel for schedule(static)
    for (int64_t t = 0; t < tiles; t++) {
        const int64_t from = t * TILE, to = from + TILE < rows ? from + TILE : rows;
        for (int64_t c = 0; c < channels; c += WIDE) {
            vec m = at(mean + c), s = at(rstd + c), g = at(gamma + c), b = at(beta + c), below = at(slope + c);
            vec level = at(dbeta + c) * share, tilt = at(dgamma + c) * share, scale = g * s;
            for (int64_t r = from; r < to; r++) {
                vec hat = (widen(x + r * channels + c) - m) * s, d = widen(dy + r * channels + c), v = hat * g + b;
                narrow(dx + r * channels + c, scale * (choose(v > 0, d, d * below) - level - hat * tilt));
            }
        }
    }
    free(parts), free(sums);
    return 0;
}
