/* The steps of attention over a block of keys: scores, weights and sums of values. */
#include "attention_block.h"

/* ---- products ---- */

INLINE floats load_of(int type, const char *from, int64_t tile) {
  if (type == OF_FLOAT32) return load((const float *)from + tile * LANES);
  const uint16_t *halves = (const uint16_t *)from + tile * LANES;
  return type == OF_FLOAT16 ? load_float16(halves) : load_bfloat16(halves);
}

INLINE void block(int type, int rows, int tiles, const float *x, int64_t x_stride, const matrix *m, int64_t tile,
                  const float *kept, float *y, int64_t y_stride, const char *later) {
  const int64_t stride = m->stride, count = m->count;
  const char *numbers = m->at;
  floats sums[ROWS_AT_A_TIME][4];
  UNROLL for (int r = 0; r < rows; r++)
  UNROLL for (int t = 0; t < tiles; t++)
    sums[r][t] = kept ? multiply(load(y + r * y_stride + (tile + t) * LANES), all(kept[r])) : zeros();
  for (int64_t k = 0; k < count; k++) {
    floats of_tile[4];
    if (rows <= 3 && later) {
      UNROLL for (int t = 0; t < tiles; t += type == OF_FLOAT32 ? 1 : 2)
        __builtin_prefetch(later + k * stride + (tile + t) * LANES * (type == OF_FLOAT32 ? 4 : 2), 0, 2);
    }
    UNROLL for (int t = 0; t < tiles; t++) of_tile[t] = load_of(type, numbers + k * stride, tile + t);
    UNROLL for (int r = 0; r < rows; r++) {
      floats number = all(x[r * x_stride + k]);
      UNROLL for (int t = 0; t < tiles; t++) sums[r][t] = multiply_add(of_tile[t], number, sums[r][t]);
    }
  }
  UNROLL for (int r = 0; r < rows; r++)
  UNROLL for (int t = 0; t < tiles; t++) store(y + r * y_stride + (tile + t) * LANES, sums[r][t]);
}

#define TILES(rows_, tiles_)                   \
  for (; tile + tiles_ <= tiles; tile += tiles_) \
    block(type, rows_, tiles_, x + row * x_stride, x_stride, m, tile, kept ? kept + row : 0, y + row * y_stride, \
          y_stride, later);

/* So many rows at a time, and so many tiles side by side, as sums fit into registers and do not wait for themselves. */
#define ROWS(rows_, tiles_)                        \
  for (; row + rows_ <= rows; row += rows_) {      \
    int64_t tile = 0;                              \
    TILES(rows_, tiles_)                           \
    if (tiles_ == 4) { TILES(rows_, 2) }           \
    if (tiles_ > 1) { TILES(rows_, 1) }            \
  }

INLINE void multiply_of(int type, int64_t rows, int64_t tiles, const float *x, int64_t x_stride, const matrix *m,
                        const float *kept, float *y, int64_t y_stride, const char *later) {
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

void multiply_rows(int64_t rows, int64_t tiles, const float *x, int64_t x_stride, const matrix *m, const float *kept,
                   float *y, int64_t y_stride, const char *later) {
  if (m->type == OF_FLOAT32) multiply_of(OF_FLOAT32, rows, tiles, x, x_stride, m, kept, y, y_stride, later);
  else if (m->type == OF_FLOAT16) multiply_of(OF_FLOAT16, rows, tiles, x, x_stride, m, kept, y, y_stride, later);
  else multiply_of(OF_BFLOAT16, rows, tiles, x, x_stride, m, kept, y, y_stride, later);
}

/* ---- keys as lanes ---- */

/* The numbers at even and at odd places of 32. */
INLINE void part_pairs(const uint16_t *pairs, int type, floats *even, floats *odd) {
  uint16_t apart[2 * LANES];
#if defined(TINYLLM_512)
  static const uint16_t order[32] = {0, 2,  4,  6,  8,  10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30,
                                     1, 3,  5,  7,  9,  11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31};
  __m512i parted = _mm512_permutexvar_epi16(_mm512_loadu_si512(order), _mm512_loadu_si512(pairs));
  memcpy(apart, &parted, 64);
#elif defined(TINYLLM_LEVEL_AVX2)
  const __m256i order = _mm256_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15, 0, 1, 4, 5, 8, 9, 12, 13,
                                         2, 3, 6, 7, 10, 11, 14, 15);
  UNROLL for (int half = 0; half < 2; half++) {
    __m256i parted = _mm256_shuffle_epi8(_mm256_loadu_si256((const void *)(pairs + 16 * half)), order);
    parted = _mm256_permute4x64_epi64(parted, 0xd8);
    _mm_storeu_si128((void *)(apart + 8 * half), _mm256_castsi256_si128(parted));
    _mm_storeu_si128((void *)(apart + LANES + 8 * half), _mm256_extracti128_si256(parted, 1));
  }
#else
  for (int i = 0; i < LANES; i++) apart[i] = pairs[2 * i], apart[LANES + i] = pairs[2 * i + 1];
#endif
  *even = type == OF_FLOAT16 ? load_float16(apart) : load_bfloat16(apart);
  *odd = type == OF_FLOAT16 ? load_float16(apart + LANES) : load_bfloat16(apart + LANES);
}

/* Turn columns of 4 bytes. Numbers of 16 bits go in pairs. */
static void turn(const char *const keys[LANES], int64_t columns, float *to, const char *const later[LANES]) {
  int64_t column = 0;
  /* Quarters of a register hold four columns of a key each, so that four registers are turned within quarters. */
#if defined(TINYLLM_512)
  for (; column + 4 <= columns; column += 4, to += 4 * KEYS) {
    __m512 four[4];
    UNROLL for (int i = 0; i < 4; i++) __builtin_prefetch(later[column % LANES + i] + column / LANES * 64, 0, 2);
    UNROLL for (int i = 0; i < 4; i++) {
      four[i] = _mm512_castps128_ps512(_mm_loadu_ps((const float *)keys[i] + column));
      four[i] = _mm512_insertf32x4(four[i], _mm_loadu_ps((const float *)keys[i + 4] + column), 1);
      four[i] = _mm512_insertf32x4(four[i], _mm_loadu_ps((const float *)keys[i + 8] + column), 2);
      four[i] = _mm512_insertf32x4(four[i], _mm_loadu_ps((const float *)keys[i + 12] + column), 3);
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
      UNROLL for (int i = 0; i < 2; i++)
        __builtin_prefetch(later[column % LANES + half / 4 + i] + column / LANES * 64, 0, 2);
      UNROLL for (int i = 0; i < 4; i++) {
        four[i] = _mm256_castps128_ps256(_mm_loadu_ps((const float *)keys[half + i] + column));
        four[i] = _mm256_insertf128_ps(four[i], _mm_loadu_ps((const float *)keys[half + i + 4] + column), 1);
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
    __builtin_prefetch(later[column % LANES] + column / LANES * 64, 0, 2);
    for (int i = 0; i < LANES; i++) memcpy(to + i, keys[i] + column * 4, 4);
  }
}

void turn_keys(const char *const keys[LANES], int type, int64_t columns, float *to, const char *const later[LANES]) {
  if (type == OF_FLOAT32) {
    turn(keys, columns, to, later);
  } else if (columns % 2) {
    for (int64_t column = 0; column < columns; column++)
      for (int i = 0; i < LANES; i++) to[column * KEYS + i] = read_float(keys[i], type, column);
  } else {
    turn(keys, columns / 2, to, later);
    for (int64_t pair = columns / 2 - 1; pair >= 0; pair--) { /* from the last on: none is written over unread */
      floats even, odd;
      part_pairs((const uint16_t *)(to + pair * KEYS), type, &even, &odd);
      store(to + 2 * pair * KEYS, even);
      store(to + (2 * pair + 1) * KEYS, odd);
    }
  }
}

/* ---- weights ---- */

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
