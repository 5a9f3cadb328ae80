/* Products in floats: of dense weights, of tiles with many zeros, of groups that no vector fits, and where integers
   gain nothing. */
#include "products.h"

#if defined(TINYLLM_512)
#define MOST_ROWS 12
#define SIDE_BY_SIDE 2
#elif defined(TINYLLM_LEVEL_AVX2)
#define MOST_ROWS 6
#define SIDE_BY_SIDE 1
#elif defined(TINYLLM_LEVEL_NEON)
#define MOST_ROWS 6
#define SIDE_BY_SIDE 1
#else
#define MOST_ROWS 3
#define SIDE_BY_SIDE 1
#endif

/* The numbers of a column of a cell whose codes are floats. */
INLINE floats floats_of_column(int table, const bytes quads[8], int column, floats scale) {
  ints codes;
  memcpy(&codes, &quads[column / 4], sizeof codes);
  UNROLL EACH codes.r[i_] = codes.r[i_] >> (8 * (column % 4)) & 255;
  return multiply(scale, table == E4M3 ? from_e4m3(codes) : look_up_floats(codes, QUANTILES));
}

/* Columns `from` to `from + count - 1` of a tile, `[count, 16]`; whole cells of a quantized weight. */
INLINE void fill_cells(int bits, int table, const weight *w, int64_t tile, int64_t from, int64_t count, float *to) {
  bytes quads[8];
  for (int64_t at = from; at < from + count; at += CELL, to += CELL * LANES) {
    read_cell(bits, table, w->codes + (tile * cells_of(w) + at / CELL) * 64 * bits, quads);
    floats scale = zeros(), minimum = zeros();
    int64_t seen = -1;
    for (int i = 0; i < CELL; i++) {
      if (at + i >= w->columns) { /* padding */
        store(to + i * LANES, zeros());
        continue;
      }
      int64_t group = (at + i) / w->group;
      if (group != seen) scale = scales_at(w, tile, group), minimum = minima_at(w, tile, group), seen = group;
      store(to + i * LANES, table < NF4 ? column_of(quads, i, w->zero, scale, minimum)
                                        : floats_of_column(table, quads, i, scale));
    }
  }
}

#define FILL(of_bits, of_table)                                  \
  if (w->bits == of_bits && w->table == of_table) {              \
    fill_cells(of_bits, of_table, w, tile, from, count, to);     \
    return;                                                      \
  }

void numbers_of_tile(const weight *w, int64_t tile, int64_t from, int64_t count, float *to) {
  if (!w->bits) {
    const int64_t at = (tile * w->columns + from) * LANES;
    for (int64_t i = 0; i < count; i++)
      if (from + i >= w->columns) store(to + i * LANES, zeros());
      else if (w->scaled == FLOAT32) store(to + i * LANES, load((const float *)w->codes + at + i * LANES));
      else if (w->scaled == FLOAT16) store(to + i * LANES, load_float16((const uint16_t *)w->codes + at + i * LANES));
      else store(to + i * LANES, load_bfloat16((const uint16_t *)w->codes + at + i * LANES));
    return;
  }
  FILL(4, 0)
  FILL(8, 0)
  FILL(6, 0)
  FILL(5, 0)
  FILL(3, 0)
  FILL(2, 0)
  FILL(4, NON_LINEAR)
  FILL(4, E2M1)
  FILL(4, NF4)
  FILL(8, E4M3)
}

INLINE void block(int rows, int tiles, const float *numbers[SIDE_BY_SIDE], int64_t count, const float *x,
                  int64_t columns, float *y, int64_t stride, int first) {
  floats sums[MOST_ROWS][SIDE_BY_SIDE];
  UNROLL for (int r = 0; r < rows; r++)
  UNROLL for (int t = 0; t < tiles; t++) sums[r][t] = first ? zeros() : load(y + r * stride + t * LANES);
  for (int64_t k = 0; k < count; k++) {
    floats of_column[SIDE_BY_SIDE];
    UNROLL for (int t = 0; t < tiles; t++) of_column[t] = load(numbers[t] + k * LANES);
    UNROLL for (int r = 0; r < rows; r++) {
      floats number = all(x[r * columns + k]);
      UNROLL for (int t = 0; t < tiles; t++) sums[r][t] = multiply_add(of_column[t], number, sums[r][t]);
    }
  }
  UNROLL for (int r = 0; r < rows; r++)
  UNROLL for (int t = 0; t < tiles; t++) store(y + r * stride + t * LANES, sums[r][t]);
}

#define ROWS(count_)                                                                                            \
  for (; row + count_ <= x->rows; row += count_)                                                                \
    block(count_, SIDE_BY_SIDE, numbers, count, x->numbers + row * x->columns + from, x->columns,               \
          y + row * stride + t * LANES, stride, !from);

/* A row times a tile that lies in memory as it is multiplied: sums by 8 columns in turn, as one sum would wait for
   itself. */
#define ONE_ROW(NUMBERS)                                                                               \
  for (; k + 8 <= count; k += 8)                                                                       \
    UNROLL for (int i = 0; i < 8; i++)                                                                 \
      sums[i] = multiply_add(NUMBERS(of + (k + i) * LANES), all(x[k + i]), sums[i]);                   \
  for (; k < count; k++) sums[0] = multiply_add(NUMBERS(of + k * LANES), all(x[k]), sums[0]);

static void one_row(const weight *w, int64_t tile, const float *x, float *y) {
  floats sums[8];
  const int64_t count = w->columns;
  int64_t k = 0;
  UNROLL for (int i = 0; i < 8; i++) sums[i] = zeros();
  if (w->scaled == FLOAT32) {
    const float *of = (const float *)w->codes + tile * count * LANES;
    ONE_ROW(load)
  } else {
    const uint16_t *of = (const uint16_t *)w->codes + tile * count * LANES;
    if (w->scaled == FLOAT16) { ONE_ROW(load_float16) } else { ONE_ROW(load_bfloat16) }
  }
  UNROLL for (int i = 0; i < 4; i++) sums[i] = add(sums[i], sums[i + 4]);
  store(y, add(add(sums[0], sums[2]), add(sums[1], sums[3])));
}

void multiply_floats(const weight *w, const ready *x, int64_t first, int tiles, float *y, int64_t stride,
                     char *scratch) {
  if (!w->bits && x->rows == 1) {
    for (int t = 0; t < tiles; t++) one_row(w, first + t, x->numbers, y + t * LANES);
    return;
  }
  float *filled = (float *)scratch;
  for (int64_t from = 0; from < w->columns || !from; from += FLOAT_COLUMNS) {
    const int64_t count = x->columns - from < FLOAT_COLUMNS ? x->columns - from : FLOAT_COLUMNS;
    for (int t = 0; t < tiles; t++) numbers_of_tile(w, first + t, from, count, filled + t * FLOAT_COLUMNS * LANES);
    for (int t = 0; t < tiles; t += SIDE_BY_SIDE) {
      const float *numbers[SIDE_BY_SIDE];
      for (int i = 0; i < SIDE_BY_SIDE; i++) numbers[i] = filled + (t + i < tiles ? t + i : t) * FLOAT_COLUMNS * LANES;
      int64_t row = 0;
#if MOST_ROWS >= 12
      ROWS(12)
#endif
#if MOST_ROWS >= 6
      ROWS(6)
#endif
      ROWS(3) ROWS(1)
    }
  }
}
