/* Rows of x made ready for products with a weight. */
#include "call.h"
#include "products.h"

int limbs_for(const weight *w, int64_t rows, int limbs) {
#if !defined(INTEGERS)
  (void)w, (void)rows, (void)limbs;
  return 0;
#else
  if (!has_integers(w) || w->group % LANES || (w->group > CELL && w->group % CELL)) return 0;
  if (rows == 1) return 3;
#if !defined(MANY_ROWS)
  if (limbs > 1 || number_bits(w) > DOT_BITS) return 0;
#endif
  return limbs;
#endif
}

static int64_t rounded_up(int64_t bytes) { return (bytes + 63) / 64 * 64; }
static int64_t padded(const weight *w) { return cells_of(w) * CELL; }
static int64_t bytes_of_numbers(const weight *w, int64_t rows) { return rounded_up(rows * padded(w) * 4); }
static int64_t bytes_of_cells(const weight *w, int64_t rows) {
  return rounded_up(rows * cells_of(w) * (int64_t)sizeof(cell_of_x));
}

int64_t ready_bytes(const weight *w, int64_t rows) {
  return bytes_of_numbers(w, rows) + bytes_of_cells(w, rows) + rounded_up(rows);
}

ready ready_in(char *memory, const weight *w, int64_t rows) {
  char *cells = memory + bytes_of_numbers(w, rows);
  ready x = {rows, padded(w), 0, (float *)memory, (cell_of_x *)cells, (uint8_t *)cells + bytes_of_cells(w, rows), NULL};
  return x;
}

ready part_of(const ready *all, const weight *w, int64_t first, int64_t rows, int limbs) {
  ready x = *all;
  x.rows = rows, x.limbs = limbs_for(w, rows, limbs);
  x.numbers += first * x.columns, x.cells += first * x.columns / CELL, x.outliers += first;
#if defined(HALVES)
  if (!w->bits && rows > 1 && limbs == 1) /* where the cells would be, which a dense weight has not */
    x.halves = (const uint16_t *)all->cells + first * x.columns;
#endif
  return x;
}

void fill_row(const weight *w, const ready *x, int64_t row, const void *from, int type) {
  float *numbers = (float *)x->numbers + row * x->columns;
  if (numbers == from) { /* as they are */
  } else if (!w->order) {
    read_floats(from, type, w->columns, numbers);
  } else {
    for (int64_t k = 0; k < w->columns; k++) numbers[k] = read_float(from, type, w->order[k]);
  }
  for (int64_t k = w->columns; k < x->columns; k++) numbers[k] = 0; /* none where x is read as it is */
#if defined(HALVES)
  if (x->halves) to_halves(numbers, x->columns, (uint16_t *)x->halves + row * x->columns);
#endif
  if (x->limbs)
    ((uint8_t *)x->outliers)[row] = (uint8_t)to_cells(numbers, x->columns / CELL, x->limbs,
                                                      (cell_of_x *)x->cells + row * x->columns / CELL);
}
