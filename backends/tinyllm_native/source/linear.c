/* linear and embedding, on weights of any form. */
#include "call.h"
#include "products.h"

/* Tiles are handed out in so many pieces for each thread, so that none waits long for another. */
#define PIECES 8

/* Whether integers of so many bytes are multiplied faster than floats, and as exactly. */
static int limbs_for(const weight *w, int64_t rows, int limbs) {
#if !defined(INTEGERS)
  (void)w, (void)rows, (void)limbs;
  return 0;
#else
  if (!has_integers(w) || w->group % LANES || (w->group > CELL && w->group % CELL)) return 0;
#if !defined(MANY_ROWS)
  if (rows > 1 && (limbs > 1 || number_bits(w) > DOT_BITS)) return 0;
#endif
  (void)rows;
  return limbs;
#endif
}

enum { X, WEIGHT, BIAS, Y };                                     /* at */
enum { ROWS, COLUMNS, OUTPUTS, X_STRIDE, Y_STRIDE, X_TYPE, Y_TYPE, LIMBS }; /* size */

static int64_t rounded_up(int64_t bytes) { return (bytes + 63) / 64 * 64; }

/* Where the parts of `ready` lie in scratch memory: numbers, cells, outliers; and the bytes of all. */
static int64_t parts_of(int64_t rows, int64_t columns, int64_t begin[3]) {
  begin[0] = 0;
  begin[1] = rounded_up(rows * columns * 4);
  begin[2] = begin[1] + rounded_up(rows * columns / CELL * (int64_t)sizeof(cell_of_x));
  return begin[2] + rounded_up(rows);
}

void linear_scratch(const call *c, int threads, int64_t *own, int64_t *shared) {
  const weight *w = c->at[WEIGHT];
  int64_t begin[3], x = parts_of(c->size[ROWS], count_of(w->columns, CELL) * CELL, begin);
  const int64_t tiles = PAIR * LANES * c->size[ROWS] * 4;
  *own = rounded_up(product_scratch(w)) + rounded_up(tiles) + (c->size[ROWS] == 1 ? x : 0);
  *shared = c->size[ROWS] == 1 ? 0 : x;
  (void)threads;
}

static int64_t tiles_of_a_piece(int64_t tiles, int threads) {
  return count_of(tiles, (int64_t)threads * PIECES * PAIR) * PAIR;
}

static void ready_rows(const call *c, const weight *w, ready *x, int64_t first, int64_t last) {
  const int64_t padded = x->columns;
  for (int64_t r = first; r < last; r++) {
    float *numbers = (float *)x->numbers + r * padded;
    const char *row = (const char *)c->at[X] + r * c->size[X_STRIDE];
    if (x->numbers == c->at[X]) { /* as they are */
    } else if (!w->order) {
      read_floats(row, (int)c->size[X_TYPE], w->columns, numbers);
    } else {
      for (int64_t k = 0; k < w->columns; k++) numbers[k] = read_float(row, (int)c->size[X_TYPE], w->order[k]);
    }
    for (int64_t k = w->columns; k < padded; k++) numbers[k] = 0; /* there is no such column where x is read as it is */
#if defined(HALVES)
    if (x->halves) to_halves(numbers, padded, (uint16_t *)x->halves + r * padded);
#endif
    if (x->limbs)
      ((uint8_t *)x->outliers)[r] =
          (uint8_t)to_cells(numbers, padded / CELL, x->limbs, (cell_of_x *)x->cells + r * padded / CELL);
  }
}

void linear(const call *c, const worker *self) {
  const weight *w = c->at[WEIGHT];
  const int64_t rows = c->size[ROWS], tiles = tiles_of(w), padded = count_of(w->columns, CELL) * CELL;
  if (!rows || !w->rows) return;
  char *own = self->own, *tile_of_y = own + rounded_up(product_scratch(w));
  char *memory = rows == 1 ? tile_of_y + rounded_up(PAIR * LANES * rows * 4) : self->shared;
  int64_t begin[3];
  parts_of(rows, padded, begin);
  ready x = {rows, padded, limbs_for(w, rows, rows == 1 ? 3 : (int)c->size[LIMBS]), (float *)(memory + begin[0]),
             (cell_of_x *)(memory + begin[1]), (uint8_t *)(memory + begin[2]), NULL};
#if defined(HALVES)
  if (!w->bits && rows > 1 && c->size[LIMBS] == 1) x.halves = (uint16_t *)x.cells; /* which a dense weight has not */
#endif
  if (!w->order && padded == w->columns && c->size[X_TYPE] == OF_FLOAT32 && c->size[X_STRIDE] == 4 * padded)
    x.numbers = c->at[X];
  if (rows == 1) {
    ready_rows(c, w, &x, 0, 1); /* by each thread for itself: quicker than to wait for another */
  } else {
    ready_rows(c, w, &x, rows * self->index / self->count, rows * (self->index + 1) / self->count);
    meet(self);
  }
  const int64_t piece = tiles_of_a_piece(tiles, self->count), pieces = count_of(tiles, piece);
  for (int64_t at = take_near(self, pieces); at >= 0; at = take_near(self, pieces)) {
    const int64_t first = at * piece;
    for (int64_t tile = first; tile < first + piece && tile < tiles; tile += PAIR) {
      const int count = tile + 1 < tiles ? PAIR : 1;
      const int64_t left = c->size[OUTPUTS] - tile * LANES, outputs = left < PAIR * LANES ? left : PAIR * LANES;
      const int in_place = outputs == PAIR * LANES && c->size[Y_TYPE] == OF_FLOAT32 && !c->at[BIAS];
      float *y = in_place ? (float *)c->at[Y] + tile * LANES : (float *)tile_of_y;
      ready of = x;
      if (w->sparse && rows > 1 && (w->in_floats[tile] || (count > 1 && w->in_floats[tile + 1]))) of.limbs = 0;
      multiply_tiles(w, &of, tile, count, y, in_place ? c->size[Y_STRIDE] / 4 : PAIR * LANES, own);
      if (in_place) continue;
      for (int64_t r = 0; r < rows; r++, y += PAIR * LANES) {
        if (c->at[BIAS])
          for (int64_t i = 0; i < outputs; i++) y[i] += read_float(c->at[BIAS], (int)c->size[X_TYPE], tile * LANES + i);
        char *to = (char *)c->at[Y] + r * c->size[Y_STRIDE];
        write_floats(to, (int)c->size[Y_TYPE], tile * LANES, outputs, y);
      }
    }
  }
}
