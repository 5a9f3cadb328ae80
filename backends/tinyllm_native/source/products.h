/* Products of rows of x with tiles of a weight. */
#ifndef TINYLLM_PRODUCTS_H
#define TINYLLM_PRODUCTS_H

#include "activations.h"

#define PAIR 2             /* tiles that are multiplied side by side */
#define FLOAT_COLUMNS 512 /* that are unpacked to floats at a time */

/* Rows of x made ready for products. */
typedef struct {
  int64_t rows, columns;  /* columns padded to whole cells */
  int limbs;              /* bytes of the integers; 0: there are none, and products are in floats */
  const float *numbers;   /* [rows, columns] */
  const cell_of_x *cells; /* [rows, columns / 32] */
  const uint8_t *outliers; /* [rows]: whether some cell has any */
  const uint16_t *halves;  /* [rows, columns] in bfloat16; NULL: products are not in those */
} ready;

/* Bytes of the integers that rows become; 0: floats are multiplied as exactly, and faster. One row is exact, as that
   takes no longer; limbs: of several. */
int limbs_for(const weight *w, int64_t rows, int limbs);

/* Rows of x for a weight, in memory of so many bytes; nothing stands in it yet. */
int64_t ready_bytes(const weight *w, int64_t rows);
ready ready_in(char *memory, const weight *w, int64_t rows);

/* Some of the rows, which are multiplied with one matrix. */
ready part_of(const ready *all, const weight *w, int64_t first, int64_t rows, int limbs);

/* Make a row ready from numbers of a dtype, which may stand in place already. */
void fill_row(const weight *w, const ready *x, int64_t row, const void *from, int type);

/* Bytes of scratch memory that a thread's products with a weight want. */
int64_t product_scratch(const weight *w);

/* Fill `y[row * stride + 16 * i + lane]`, float32, with the products of all rows with tile `first + i`; at most PAIR
   tiles. */
void multiply_tiles(const weight *w, const ready *x, int64_t first, int tiles, float *y, int64_t stride, char *scratch);

/* Columns `from` to `from + count - 1` of a tile as floats `[count, 16]`: whole cells of a quantized weight. */
void numbers_of_tile(const weight *w, int64_t tile, int64_t from, int64_t count, float *to);

/* The parts of it, by how they multiply. */
void multiply_one_row(const weight *w, const ready *x, int64_t first, int tiles, float *y);
void multiply_integers(const weight *w, const ready *x, int64_t first, int tiles, float *y, int64_t stride,
                       char *scratch);
void multiply_floats(const weight *w, const ready *x, int64_t first, int tiles, float *y, int64_t stride,
                     char *scratch);
#if defined(TINYLLM_LEVEL_AVX512VNNI)
#define HALVES
void multiply_halves(const weight *w, const ready *x, int64_t first, int tiles, float *y, int64_t stride,
                     char *scratch);
/* Numbers rounded to bfloat16: `count` of them, a multiple of 16. */
void to_halves(const float *from, int64_t count, uint16_t *to);
#endif

/* ---- what they share ---- */

/* Codes of 4 bits above a minimum are taken around 8, so that sums of products stay within 32 bits: 8 scales are added
   to the minimum in turn. */
INLINE int shift_of(const weight *w, int bits, int table) { return bits == 4 && !table && w->minimums ? 8 : 0; }
INLINE floats shifted_minima(const weight *w, int64_t tile, int64_t group, floats scale, int shift) {
  floats minimum = minima_at(w, tile, group);
  return shift ? multiply_add(scale, all((float)shift), minimum) : minimum;
}

#if defined(INTEGERS)
/* Whether products with three bytes would leave 32 bits together, so that the highest is summed apart. */
INLINE int is_split(int bits, int table) { return bits > 4 || table; }

INLINE ints dot4_of(int bits, int table, ints sums, bytes quad, int32_t four) {
  if ((table ? 8 : bits) <= DOT_BITS) return dot4(sums, quad, four);
  ints high = dot4(all_ints(0), low_bits(shift_right(quad, 4), 4), four);
  return add_ints(dot4(sums, low_bits(quad, 4), four), shift_left(high, 4));
}

/* An integer that wraps, times one that does, on all lanes. */
INLINE ints less(ints a, int32_t zero, int32_t times) {
  return add_ints(a, all_ints((int32_t)(-(uint32_t)zero * (uint32_t)times)));
}
#endif

/* The numbers of a column of a cell, from its codes. */
INLINE floats column_of(const bytes quads[8], int column, int zero, floats scale, floats minimum) {
  ints code;
  memcpy(&code, &quads[column / 4], sizeof code);
  UNROLL EACH code.r[i_] = (code.r[i_] >> (8 * (column % 4)) & 255) - zero;
  return multiply_add(scale, to_floats(code), minimum);
}

#endif
