/* Several rows of x: a pair of tiles is unpacked once, and multiplied with rows in blocks. */
#include "products.h"

#if defined(INTEGERS)
#include "unpack.h"

#if REGISTERS == 2
#define MOST_ROWS 2
#else
#define MOST_ROWS 8
#endif

/* halves: groups have 16 columns, so that each half of a cell has a scale of its own. bits: of the numbers of codes.
   later: codes that are unpacked next, `later_bytes` a cell, asked for while these are multiplied; NULL: none. */
INLINE void block(int limbs, int split, int halves, int bits, int rows, const unpacked *u, int64_t cells, int zero,
                  int minimums, const cell_of_x *x, float *y, int64_t stride, const uint8_t *later, int later_bytes) {
  floats sums[MOST_ROWS][PAIR];
  UNROLL for (int r = 0; r < rows; r++)
  UNROLL for (int t = 0; t < PAIR; t++) sums[r][t] = zeros();
  for (int64_t c = 0; c < cells; c++, u++, x++) {
    for (int i = 0; later && i < later_bytes; i += 64) __builtin_prefetch(later + i, 0, 2);
    if (later) later += later_bytes;
    for (int h = 0; h < (halves ? 2 : 1); h++) {
      const int from = 4 * h, to = halves ? from + 4 : 8;
      ints whole[MOST_ROWS][PAIR];
      floats upper[MOST_ROWS][PAIR];
      UNROLL for (int r = 0; r < rows; r++)
  UNROLL for (int t = 0; t < PAIR; t++) whole[r][t] = all_ints(0);
      UNROLL for (int limb = 3 - limbs; limb < 3; limb++) {
        UNROLL for (int q = from; q < to; q++) {
          UNROLL for (int r = 0; r < rows; r++) {
            int32_t four;
            memcpy(&four, x[r * cells].limbs[limb] + 4 * q, 4);
            UNROLL for (int t = 0; t < PAIR; t++) whole[r][t] = dot4_of(bits, 0, whole[r][t], u->quads[t][q], four);
          }
        }
        if (limb == 2) continue;
        UNROLL for (int r = 0; r < rows; r++) {
          const cell_of_x *at = x + r * cells;
          UNROLL for (int t = 0; t < PAIR; t++) {
            if (split && limb == 0) {
              int32_t of_zero = halves ? at->upper[h] : at->upper[0] + at->upper[1];
              upper[r][t] = multiply(to_floats(less(whole[r][t], zero, of_zero)), all(65536.0f));
              whole[r][t] = all_ints(0);
            } else {
              whole[r][t] = shift_left(whole[r][t], 8);
            }
          }
        }
      }
      UNROLL for (int r = 0; r < rows; r++) {
        const cell_of_x *at = x + r * cells;
        uint32_t of_zero = halves ? (uint32_t)at->whole[h] : (uint32_t)at->whole[0] + (uint32_t)at->whole[1];
        if (split) of_zero -= (uint32_t)(halves ? at->upper[h] : at->upper[0] + at->upper[1]) << 16;
        const float of_minimum = halves ? at->sums[h] : at->sums[0] + at->sums[1];
        UNROLL for (int t = 0; t < PAIR; t++) {
          floats product = to_floats(limbs == 3 || zero ? less(whole[r][t], zero, (int32_t)of_zero) : whole[r][t]);
          if (split) product = add(product, upper[r][t]);
          sums[r][t] = multiply_add(multiply(u->scales[h][t], all(at->scale)), product, sums[r][t]);
          if (minimums) sums[r][t] = multiply_add(u->minima[h][t], all(of_minimum), sums[r][t]);
        }
      }
    }
  }
  UNROLL for (int r = 0; r < rows; r++)
  UNROLL for (int t = 0; t < PAIR; t++) store(y + r * stride + t * LANES, sums[r][t]);
}

/* Adds the products with what was taken out of the integers. */
static void add_outliers(const unpacked *u, int64_t cells, int zero, const cell_of_x *x, const float *numbers,
                         float *y) {
  for (int64_t c = 0; c < cells; c++, u++, numbers += CELL)
    for (uint32_t columns = x[c].outliers; columns; columns &= columns - 1) {
      const int column = __builtin_ctz(columns), h = column / LANES;
      for (int t = 0; t < PAIR; t++) {
        floats numbers_of = column_of(u->quads[t], column, zero, u->scales[h][t], u->minima[h][t]);
        store(y + t * LANES, multiply_add(numbers_of, all(numbers[column]), load(y + t * LANES)));
      }
    }
}

/* More rows at a time share what is read of the weight, and need more registers: three bytes use them up before. */
#define ROWS(count)                                                                                              \
  for (; row + count <= x->rows; row += count, later = NULL)                                                     \
    block(limbs, split, halves, bits, count, u, cells, zero, w->minimums, x->cells + row * cells,                \
          y + row * stride, stride, later, PAIR * 64 * w->bits);

#if MOST_ROWS == 8
#define AS_MANY if (limbs == 1) ROWS(8) else ROWS(6) ROWS(4)
#else
#define AS_MANY
#endif

#define BLOCKS(limbs_, split_, halves_, bits_)                                        \
  {                                                                                   \
    enum { limbs = limbs_, split = split_, halves = halves_, bits = bits_ };          \
    AS_MANY ROWS(2) ROWS(1)                                                           \
  }

void multiply_integers(const weight *w, const ready *x, int64_t first, int tiles, float *y, int64_t stride,
                       char *scratch) {
  unpacked *u = (unpacked *)scratch;
  /* sums of single bytes are small: they need no shift, and most schemes above a minimum no zero then */
  const int shift = x->limbs == 3 ? shift_of(w, w->bits, w->table) : 0, zero = w->zero + shift;
  const int64_t cells = cells_of(w);
  unpack(w, first, tiles, shift, u);
  int64_t row = 0;
  const uint8_t *later = first + 2 * PAIR <= tiles_of(w) ? w->codes + (first + PAIR) * cells * 64 * w->bits : NULL;
  const int by_halves = w->group < CELL;
#if defined(MANY_ROWS)
  if (x->limbs == 3) {
    if (number_bits(w) <= 4) {
      if (by_halves) BLOCKS(3, 0, 1, 4) else BLOCKS(3, 0, 0, 4)
    } else if (number_bits(w) <= DOT_BITS) {
      if (by_halves) BLOCKS(3, 1, 1, DOT_BITS) else BLOCKS(3, 1, 0, DOT_BITS)
    } else if (by_halves) BLOCKS(3, 1, 1, 8) else BLOCKS(3, 1, 0, 8)
  }
#endif
  if (number_bits(w) > DOT_BITS) {
    if (by_halves) BLOCKS(1, 0, 1, 8) else BLOCKS(1, 0, 0, 8)
  } else {
    if (by_halves) BLOCKS(1, 0, 1, 4) else BLOCKS(1, 0, 0, 4)
  }
  for (row = 0; row < x->rows; row++)
    if (x->outliers[row])
      add_outliers(u, cells, zero, x->cells + row * cells, x->numbers + row * x->columns, y + row * stride);
}

#endif
