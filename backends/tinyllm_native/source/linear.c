/* linear and embedding, on weights of any form. */
#include "call.h"
#include "products.h"

/* Tiles are handed out in so many pieces for each thread, so that none waits long for another. */
#define PIECES 8

enum { X, WEIGHT, BIAS, Y };                                     /* at */
enum { ROWS, COLUMNS, OUTPUTS, X_STRIDE, Y_STRIDE, X_TYPE, Y_TYPE, LIMBS }; /* size */

static int64_t rounded_up(int64_t bytes) { return (bytes + 63) / 64 * 64; }

void linear_scratch(const call *c, int threads, int64_t *own, int64_t *shared) {
  const weight *w = c->at[WEIGHT];
  const int64_t x = ready_bytes(w, c->size[ROWS]), tiles = PAIR * LANES * c->size[ROWS] * 4;
  *own = rounded_up(product_scratch(w)) + rounded_up(tiles) + (c->size[ROWS] == 1 ? x : 0);
  *shared = c->size[ROWS] == 1 ? 0 : x;
  (void)threads;
}

static int64_t tiles_of_a_piece(int64_t tiles, int threads) {
  return count_of(tiles, (int64_t)threads * PIECES * PAIR) * PAIR;
}

void linear(const call *c, const worker *self) {
  const weight *w = c->at[WEIGHT];
  const int64_t rows = c->size[ROWS], tiles = tiles_of(w), padded = count_of(w->columns, CELL) * CELL;
  if (!rows || !w->rows) return;
  char *own = self->own, *tile_of_y = own + rounded_up(product_scratch(w));
  char *memory = rows == 1 ? tile_of_y + rounded_up(PAIR * LANES * rows * 4) : self->shared;
  ready all_rows = ready_in(memory, w, rows);
  if (!w->order && padded == w->columns && c->size[X_TYPE] == OF_FLOAT32 && c->size[X_STRIDE] == 4 * padded)
    all_rows.numbers = c->at[X];
  const ready x = part_of(&all_rows, w, 0, rows, (int)c->size[LIMBS]);
  const int alone = rows == 1; /* each thread for itself: quicker than to wait for another */
  const int64_t begin = alone ? 0 : rows * self->index / self->count;
  const int64_t end = alone ? 1 : rows * (self->index + 1) / self->count;
  for (int64_t r = begin; r < end; r++)
    fill_row(w, &x, r, (const char *)c->at[X] + r * c->size[X_STRIDE], (int)c->size[X_TYPE]);
  if (!alone) meet(self);
  const int64_t piece = tiles_of_a_piece(tiles, self->count), pieces = count_of(tiles, piece);
  for (int64_t at = take_near(self, pieces); at >= 0; at = take_near(self, pieces)) {
    const int64_t first = at * piece;
    for (int64_t tile = first; tile < first + piece && tile < tiles; tile += PAIR) {
      const int count = tile + 1 < tiles ? PAIR : 1;
      const int64_t left = c->size[OUTPUTS] - tile * LANES, outputs = left < PAIR * LANES ? left : PAIR * LANES;
      const int in_place = outputs == PAIR * LANES && c->size[Y_TYPE] == OF_FLOAT32 && !c->at[BIAS];
      float *y = in_place ? (float *)c->at[Y] + tile * LANES : (float *)tile_of_y;
      multiply_tiles(w, &x, tile, count, y, in_place ? c->size[Y_STRIDE] / 4 : PAIR * LANES, own);
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
