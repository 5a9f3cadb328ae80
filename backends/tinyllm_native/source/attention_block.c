/* The steps of attention over a block of keys: scores, weights and sums of values. */
#include "attention_block.h"

/* ---- products ---- */

INLINE void block(int rows, int tiles, const float *x, int64_t x_stride, const float *numbers, int64_t stride,
                  int64_t count, const float *kept, float *y, int64_t y_stride, const float *later) {
  floats sums[ROWS_AT_A_TIME][4];
  UNROLL for (int r = 0; r < rows; r++)
  UNROLL for (int t = 0; t < tiles; t++)
    sums[r][t] = kept ? multiply(load(y + r * y_stride + t * LANES), all(kept[r])) : zeros();
  for (int64_t k = 0; k < count; k++) {
    floats of_tile[4];
    if (rows <= 3 && later) {
      UNROLL for (int t = 0; t < tiles; t++) __builtin_prefetch(later + k * stride + t * LANES, 0, 2);
    }
    UNROLL for (int t = 0; t < tiles; t++) of_tile[t] = load(numbers + k * stride + t * LANES);
    UNROLL for (int r = 0; r < rows; r++) {
      floats number = all(x[r * x_stride + k]);
      UNROLL for (int t = 0; t < tiles; t++) sums[r][t] = multiply_add(of_tile[t], number, sums[r][t]);
    }
  }
  UNROLL for (int r = 0; r < rows; r++)
  UNROLL for (int t = 0; t < tiles; t++) store(y + r * y_stride + t * LANES, sums[r][t]);
}

#define TILES(rows_, tiles_)                                                                                         \
  for (; tile + tiles_ <= tiles; tile += tiles_)                                                                     \
    block(rows_, tiles_, x + row * x_stride, x_stride, numbers + tile * LANES, stride, count, kept ? kept + row : 0, \
          y + row * y_stride + tile * LANES, y_stride, later ? later + tile * LANES : 0);

/* So many rows at a time, and so many tiles side by side, as sums fit into registers and do not wait for themselves. */
#define ROWS(rows_, tiles_)                        \
  for (; row + rows_ <= rows; row += rows_) {      \
    int64_t tile = 0;                              \
    TILES(rows_, tiles_)                           \
    if (tiles_ == 4) { TILES(rows_, 2) }           \
    if (tiles_ > 1) { TILES(rows_, 1) }            \
  }

void multiply_rows(int64_t rows, int64_t tiles, const float *x, int64_t x_stride, const float *numbers, int64_t stride,
                   int64_t count, const float *kept, float *y, int64_t y_stride, const float *later) {
  int64_t row = 0;
#if defined(TINYLLM_512)
  ROWS(6, 4) ROWS(3, 4) ROWS(2, 4) ROWS(1, 4)
#elif defined(TINYLLM_LEVEL_AVX2)
  ROWS(6, 1) ROWS(3, 1) ROWS(2, 2) ROWS(1, 4)
#elif defined(TINYLLM_LEVEL_NEON)
  ROWS(6, 1) ROWS(3, 1) ROWS(1, 4)
#else
  ROWS(3, 1) ROWS(1, 2)
#endif
}

/* ---- keys as lanes ---- */

void turn_keys(const float *const keys[LANES], int64_t columns, float *to, const float *const later[LANES]) {
  int64_t column = 0;
  /* Quarters of a register hold four columns of a key each, so that four registers are turned within quarters. */
#if defined(TINYLLM_512)
  for (; column + 4 <= columns; column += 4, to += 4 * KEYS) {
    __m512 four[4];
    if (later) {
      UNROLL for (int i = 0; i < 4; i++) __builtin_prefetch(later[column % LANES + i] + column / LANES * LANES, 0, 2);
    }
    UNROLL for (int i = 0; i < 4; i++) {
      four[i] = _mm512_castps128_ps512(_mm_loadu_ps(keys[i] + column));
      four[i] = _mm512_insertf32x4(four[i], _mm_loadu_ps(keys[i + 4] + column), 1);
      four[i] = _mm512_insertf32x4(four[i], _mm_loadu_ps(keys[i + 8] + column), 2);
      four[i] = _mm512_insertf32x4(four[i], _mm_loadu_ps(keys[i + 12] + column), 3);
    }
    __m512 low = _mm512_unpacklo_ps(four[0], four[1]), other_low = _mm512_unpacklo_ps(four[2], four[3]);
    __m512 high = _mm512_unpackhi_ps(four[0], four[1]), other_high = _mm512_unpackhi_ps(four[2], four[3]);
    _mm512_storeu_ps(to, _mm512_shuffle_ps(low, other_low, 0x44));
    _mm512_storeu_ps(to + KEYS, _mm512_shuffle_ps(low, other_low, 0xee));
    _mm512_storeu_ps(to + 2 * KEYS, _mm512_shuffle_ps(high, other_high, 0x44));
    _mm512_storeu_ps(to + 3 * KEYS, _mm512_shuffle_ps(high, other_high, 0xee));
  }
#elif defined(TINYLLM_LEVEL_AVX2)
  for (; column + 4 <= columns; column += 4, to += 4 * KEYS) {
    UNROLL for (int half = 0; half < LANES; half += 8) {
      __m256 four[4];
      if (later) {
        UNROLL for (int i = 0; i < 2; i++)
          __builtin_prefetch(later[column % LANES + half / 4 + i] + column / LANES * LANES, 0, 2);
      }
      UNROLL for (int i = 0; i < 4; i++) {
        four[i] = _mm256_castps128_ps256(_mm_loadu_ps(keys[half + i] + column));
        four[i] = _mm256_insertf128_ps(four[i], _mm_loadu_ps(keys[half + i + 4] + column), 1);
      }
      __m256 low = _mm256_unpacklo_ps(four[0], four[1]), other_low = _mm256_unpacklo_ps(four[2], four[3]);
      __m256 high = _mm256_unpackhi_ps(four[0], four[1]), other_high = _mm256_unpackhi_ps(four[2], four[3]);
      _mm256_storeu_ps(to + half, _mm256_shuffle_ps(low, other_low, 0x44));
      _mm256_storeu_ps(to + half + KEYS, _mm256_shuffle_ps(low, other_low, 0xee));
      _mm256_storeu_ps(to + half + 2 * KEYS, _mm256_shuffle_ps(high, other_high, 0x44));
      _mm256_storeu_ps(to + half + 3 * KEYS, _mm256_shuffle_ps(high, other_high, 0xee));
    }
  }
#endif
  for (; column < columns; column++, to += KEYS) {
    if (later) __builtin_prefetch(later[column % LANES] + column / LANES * LANES, 0, 2);
    for (int i = 0; i < LANES; i++) to[i] = keys[i][column];
  }
}

/* ---- weights ---- */

INLINE floats choose(ints is, floats a, floats b) {
  UNROLL EACH a.r[i_] = (float_register)(((int_register)a.r[i_] & is.r[i_]) | ((int_register)b.r[i_] & ~is.r[i_]));
  return a;
}

/* tanh, within a few ulps of its own size: a polynomial where 1 - 2 / (e^2x + 1) loses digits (Cephes, tanhf.c). */
INLINE floats hyperbolic_tangent(floats x) {
  floats size = size_of(x), square = multiply(x, x);
  floats p = all(-5.70498872745e-3f);
  p = multiply_add(p, square, all(2.06390887954e-2f));
  p = multiply_add(p, square, all(-5.37397155531e-2f));
  p = multiply_add(p, square, all(1.33314422036e-1f));
  p = multiply_add(p, square, all(-3.33332819422e-1f));
  p = multiply_add(multiply(p, square), x, x);
  floats far = exponential(add(size, size));
  far = subtract(all(1.0f), divide(all(2.0f), add(far, all(1.0f))));
  ints is_near;
  UNROLL EACH {
    far.r[i_] = (float_register)((int_register)far.r[i_] | ((int_register)x.r[i_] & (int32_t)0x80000000));
    is_near.r[i_] = size.r[i_] < 0.625f;
  }
  return choose(is_near, p, far);
}

/* Scores with -inf in lanes that are not among `from` to `to - 1`. */
INLINE floats among(floats scores, int from, int to) {
  static const int32_t numbers[LANES] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  ints is = load_ints(numbers);
  UNROLL EACH is.r[i_] = (is.r[i_] >= from) & (is.r[i_] < to);
  return choose(is, scores, all(-INFINITY));
}

INLINE float top_of(floats a) {
#if defined(TINYLLM_512)
  __m512 x;
  memcpy(&x, &a, 64);
  return _mm512_reduce_max_ps(x);
#else
  for (int i = 1; i < REGISTERS; i++) {
    int_register is = a.r[0] > a.r[i];
    a.r[0] = (float_register)(((int_register)a.r[0] & is) | ((int_register)a.r[i] & ~is));
  }
  float x[REGISTER_BYTES / 4];
  memcpy(x, &a.r[0], REGISTER_BYTES);
  for (int step = REGISTER_BYTES / 8; step; step /= 2)
    for (int i = 0; i < step; i++) x[i] = x[i] > x[i + step] ? x[i] : x[i + step];
  return x[0];
#endif
}

INLINE int clamp(int64_t number) { return number < 0 ? 0 : number > KEYS ? KEYS : (int)number; }

/* Cap and mask the scores of a row; their largest. NaN is passed over here, and comes out of the exponential. */
INLINE float prepare_row(const settings *s, int64_t position, int64_t first, int count, float *scores) {
  int from = s->window ? clamp(position - s->window + 1 - first) : 0, to = clamp(position + 1 - first);
  to = to < count ? to : count;
  floats top = all(-INFINITY);
  for (int i = 0; i < count; i += LANES) {
    floats x = load(scores + i);
    if (s->softcap != 0) x = multiply(hyperbolic_tangent(divide(x, all(s->softcap))), all(s->softcap));
    if (from > i || to < i + LANES) x = among(x, from - i, to - i);
    if (s->softcap != 0 || from > i || to < i + LANES) store(scores + i, x);
    top = larger(x, top);
  }
  return top_of(top);
}

void weigh(const settings *s, int64_t rows, const int64_t *position, int64_t first, int64_t count, float *scores,
           const seen *of, float *kept) {
  float taken[MOST_ROWS]; /* off the scores; a row of -inf alone keeps them, as -inf - -inf would be NaN */
  for (int64_t r = 0; r < rows; r++) {
    float top = prepare_row(s, position[r], first, (int)count, scores + r * KEYS), before = of->top[r];
    if (!(top > before)) top = before;
    of->top[r] = top;
    taken[r] = top > -INFINITY ? top : 0;
    kept[r] = before - taken[r];
  }
  for (int64_t r = rows; r % LANES; r++) kept[r] = 0;
  for (int64_t r = 0; r < rows; r += LANES) store(kept + r, exponential(load(kept + r)));
  for (int64_t r = 0; r < rows; r++) {
    floats total = multiply(load(of->totals + r * LANES), all(kept[r])), off = all(taken[r]);
    for (int64_t i = 0; i < count; i += LANES) {
      floats weight = exponential(subtract(load(scores + r * KEYS + i), off));
      store(scores + r * KEYS + i, weight);
      total = add(total, weight);
    }
    store(of->totals + r * LANES, total);
  }
}
