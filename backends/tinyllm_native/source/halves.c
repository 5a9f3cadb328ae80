/* Products of several rows with a dense weight in bfloat16, for --fast: a pair of columns is multiplied at a time, and
   sums are float32. The processor takes subnormal numbers for 0 here. */
#include "products.h"

#if defined(HALVES)
#define HALF_COLUMNS 1024 /* that lie ready in a core's cache for all rows */

INLINE __m512i columns_of(const weight *w, int64_t at) { /* two columns of a tile, one after the other */
  if (w->scaled == BFLOAT16) return _mm512_loadu_si512((const uint16_t *)w->codes + at * LANES);
  floats two[2];
  for (int i = 0; i < 2; i++)
    two[i] = w->scaled == FLOAT32 ? load((const float *)w->codes + (at + i) * LANES)
                                  : load_float16((const uint16_t *)w->codes + (at + i) * LANES);
  return (__m512i)_mm512_cvtne2ps_pbh((__m512)two[1].r[0], (__m512)two[0].r[0]);
}

/* Columns of a tile in pairs: `[count / 2, 16, 2]`. */
static void pair_columns(const weight *w, int64_t tile, int64_t from, int64_t count, uint32_t *to) {
  static const uint16_t order[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                     8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  for (int64_t i = 0; i < count; i += 2, to += LANES) {
    const int64_t left = w->columns - from - i;
    __m512i pair = _mm512_setzero_si512();
    if (left > 1) {
      pair = columns_of(w, tile * w->columns + from + i);
    } else if (left == 1) { /* an odd number of columns: there may be no memory behind the last */
      float last[LANES];
      numbers_of_tile(w, tile, from + i, 1, last);
      pair = (__m512i)_mm512_cvtne2ps_pbh(_mm512_setzero_ps(), _mm512_loadu_ps(last));
    }
    _mm512_storeu_si512(to, _mm512_permutexvar_epi16(_mm512_loadu_si512(order), pair));
  }
}

INLINE void block(int rows, const uint32_t *weights[PAIR], int64_t pairs, const uint32_t *x, int64_t x_stride, float *y,
                  int64_t stride, int first) {
  __m512 sums[12][PAIR];
  UNROLL for (int r = 0; r < rows; r++)
  UNROLL for (int t = 0; t < PAIR; t++)
    sums[r][t] = first ? _mm512_setzero_ps() : _mm512_loadu_ps(y + r * stride + t * LANES);
  for (int64_t k = 0; k < pairs; k++) {
    __m512bh of_pair[PAIR];
    UNROLL for (int t = 0; t < PAIR; t++) of_pair[t] = (__m512bh)_mm512_loadu_si512(weights[t] + k * LANES);
    UNROLL for (int r = 0; r < rows; r++) {
      const __m512bh number = (__m512bh)_mm512_set1_epi32((int)x[r * x_stride + k]);
      UNROLL for (int t = 0; t < PAIR; t++) sums[r][t] = _mm512_dpbf16_ps(sums[r][t], of_pair[t], number);
    }
  }
  UNROLL for (int r = 0; r < rows; r++)
  UNROLL for (int t = 0; t < PAIR; t++) _mm512_storeu_ps(y + r * stride + t * LANES, sums[r][t]);
}

#define ROWS(count_)                                                                                          \
  for (; row + count_ <= x->rows; row += count_)                                                              \
    block(count_, weights, count / 2, (const uint32_t *)(x->halves + row * x->columns + from), x->columns / 2, \
          y + row * stride, stride, !from);

void multiply_halves(const weight *w, const ready *x, int64_t first, int tiles, float *y, int64_t stride,
                     char *scratch) {
  for (int64_t from = 0; from < w->columns || !from; from += HALF_COLUMNS) {
    const int64_t count = x->columns - from < HALF_COLUMNS ? x->columns - from : HALF_COLUMNS;
    const uint32_t *weights[PAIR];
    for (int t = 0; t < PAIR; t++) {
      uint32_t *to = (uint32_t *)scratch + t * (HALF_COLUMNS / 2 * LANES);
      weights[t] = t < tiles ? to : weights[0];
      if (t < tiles) pair_columns(w, first + t, from, count, to);
    }
    int64_t row = 0;
    ROWS(12) ROWS(6) ROWS(3) ROWS(1)
  }
}

void to_halves(const float *from, int64_t count, uint16_t *to) {
  for (int64_t i = 0; i < count; i += LANES) {
    const __m256i rounded = (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(from + i));
    memcpy(to + i, &rounded, sizeof rounded);
  }
}
#endif
