/* One row of x: codes go from memory to the sums, once. */
#include "products.h"

#if defined(INTEGERS)
/* Bytes that codes are asked for before they are read, as processors look ahead within a page only: far ahead into the
   outer cache, whose misses may be many at a time, and from there into the inner one. */
#define AHEAD 2048
#define FAR_AHEAD 8192

/* Sums of products of codes with the integers of some quads, as floats: rounded once, or twice where they are split. */
INLINE floats dot(int bits, int table, const bytes quads[8], int from, int count, const cell_of_x *x, int zero,
                  int32_t whole, int32_t upper) {
  ints sums[3] = {all_ints(0), all_ints(0), all_ints(0)};
  UNROLL for (int q = from; q < from + count; q++)
  UNROLL for (int limb = 0; limb < 3; limb++) {
    int32_t four;
    memcpy(&four, x->limbs[limb] + 4 * q, 4);
    sums[limb] = dot4_of(bits, table, sums[limb], quads[q], four);
  }
  ints lower = add_ints(shift_left(sums[1], 8), sums[2]);
  if (!is_split(bits, table)) return to_floats(less(add_ints(shift_left(sums[0], 16), lower), zero, whole));
  floats low = to_floats(less(lower, zero, (int32_t)((uint32_t)whole - ((uint32_t)upper << 16))));
  return multiply_add(to_floats(less(sums[0], zero, upper)), all(65536.0f), low);
}

/* Adds the products with the columns of a cell that a mask names, in floats. It reads the cell again: were the codes
   handed over, they would go through memory in cells without such columns too. */
static __attribute__((noinline)) floats add_columns(int bits, int table, const weight *w, int64_t tile, int64_t cell,
                                                    uint32_t columns, const float *x, floats sums) {
  bytes quads[8];
  read_cell(bits, table, w->codes + (tile * cells_of(w) + cell) * 64 * bits, quads);
  for (; columns; columns &= columns - 1) {
    int column = __builtin_ctz(columns);
    int64_t at = cell * CELL + column, group = at / w->group;
    if (at >= w->columns) break;
    floats numbers = column_of(quads, column, w->zero, scales_at(w, tile, group), minima_at(w, tile, group));
    sums = multiply_add(numbers, all(x[column]), sums);
  }
  return sums;
}

INLINE floats tile_times_row(int bits, int table, const weight *w, int64_t tile, const ready *x) {
  const int shift = shift_of(w, bits, table), zero = w->zero + shift;
  const int64_t cells = cells_of(w);
  const uint8_t *codes = w->codes + tile * cells * 64 * bits;
  const cell_of_x *at = x->cells;
  floats sums = zeros();
  if ((w->sparse && w->in_floats[tile]) || w->group % LANES) {
    for (int64_t c = 0; c < cells; c++)
      sums = add_columns(bits, table, w, tile, c, 0xffffffff, x->numbers + c * CELL, sums);
    return sums;
  }
  int64_t group = 0;
  int columns = 0; /* of the group that are behind */
  for (int64_t c = 0; c < cells; c++, at++, codes += 64 * bits) {
    bytes quads[8];
    for (int i = 0; i < bits; i++) {
      __builtin_prefetch(codes + FAR_AHEAD + 64 * i, 0, 2);
      __builtin_prefetch(codes + AHEAD + 64 * i);
    }
    read_cell(bits, table, codes, quads);
    if (w->group >= CELL) {
      floats scale = scales_at(w, tile, group);
      const int32_t whole = (int32_t)((uint32_t)at->whole[0] + (uint32_t)at->whole[1]);
      floats product = dot(bits, table, quads, 0, 8, at, zero, whole,
                           at->upper[0] + at->upper[1]);
      sums = multiply_add(multiply(scale, all(at->scale)), product, sums);
      if (w->minimums)
        sums = multiply_add(shifted_minima(w, tile, group, scale, shift), all(at->sums[0] + at->sums[1]), sums);
      columns += CELL;
      if (columns == w->group) group++, columns = 0;
    } else {
      UNROLL for (int h = 0; h < 2; h++) {
        if (group == w->groups) break; /* the padding of the last cell */
        floats scale = scales_at(w, tile, group);
        floats product = dot(bits, table, quads, 4 * h, 4, at, zero, at->whole[h], at->upper[h]);
        sums = multiply_add(multiply(scale, all(at->scale)), product, sums);
        if (w->minimums) sums = multiply_add(shifted_minima(w, tile, group, scale, shift), all(at->sums[h]), sums);
        group++;
      }
    }
    if (at->outliers) sums = add_columns(bits, table, w, tile, c, at->outliers, x->numbers + c * CELL, sums);
  }
  return sums;
}

#define WAY(of_bits, of_table)                                                                     \
  if (w->bits == of_bits && w->table == of_table) {                                                \
    for (int t = 0; t < tiles; t++) store(y + t * LANES, tile_times_row(of_bits, of_table, w, first + t, x)); \
    return;                                                                                        \
  }

void multiply_one_row(const weight *w, const ready *x, int64_t first, int tiles, float *y) {
  WAY(4, 0)
  WAY(8, 0)
  WAY(6, 0)
  WAY(5, 0)
  WAY(3, 0)
  WAY(2, 0)
  WAY(4, NON_LINEAR)
  WAY(4, E2M1)
}

#endif
