/* Which way a product goes. */
#include "products.h"

int64_t product_scratch(const weight *w) {
  /* the unpacked cells of a pair of tiles: codes, and scales and minimums of both halves */
  const int64_t in_integers = cells_of(w) * PAIR * (512 + 4 * 64), in_floats = PAIR * 64 * FLOAT_COLUMNS;
  return w->bits && in_integers > in_floats ? in_integers : in_floats;
}

void multiply_tiles(const weight *w, const ready *x, int64_t first, int tiles, float *y, int64_t stride,
                    char *scratch) {
#if defined(INTEGERS)
  const int in_floats = w->sparse && x->rows > 1 && (w->in_floats[first] || (tiles > 1 && w->in_floats[first + 1]));
  if (x->limbs && x->rows == 1) {
    multiply_one_row(w, x, first, tiles, y);
    return;
  }
  if (x->limbs && !in_floats) {
    multiply_integers(w, x, first, tiles, y, stride, scratch);
    return;
  }
#endif
#if defined(HALVES)
  if (x->halves) {
    multiply_halves(w, x, first, tiles, y, stride, scratch);
    return;
  }
#endif
  multiply_floats(w, x, first, tiles, y, stride, scratch);
}
