/* embedding: rows of a table, packed or as it is. */
#include "call.h"
#include "ops.h"
#include "products.h"

/* The codes of one row of a cell; those of a table of integers as its numbers, before the zero is taken off. */
static void codes_of_row(const weight *w, int64_t tile, int lane, int64_t cell, int codes[CELL]) {
  const uint8_t *planes = w->codes + (tile * cells_of(w) + cell) * 64 * w->bits;
  for (int i = 0; i < CELL; i++) {
    const int quad = i / 4, at = 4 * lane + i % 4, bits = w->bits;
    const uint8_t *plane = planes;
    int code = 0;
    if (bits == 8) {
      codes[i] = planes[64 * quad + at];
      continue;
    }
    if (bits >= 4) {
      code = plane[64 * (quad % 4) + at] >> 4 * (quad / 4) & 15;
      plane += 256;
    }
    if (bits == 2 || bits == 3 || bits == 6) {
      code |= (plane[64 * (quad % 2) + at] >> 2 * (quad / 2) & 3) << (bits == 6 ? 4 : 0);
      plane += 128;
    }
    if (bits == 3 || bits == 5) code |= (plane[at] >> quad & 1) << (bits - 1);
    codes[i] = w->table && w->table < NF4 ? TABLES[w->table][code] : code;
  }
}

static float number_of(const weight *w, int code) {
  if (w->table == NF4) return QUANTILES[code];
  if (w->table != E4M3) return (float)(code - w->zero);
  float numbers[LANES];
  store(numbers, from_e4m3(all_ints(code)));
  return numbers[0];
}

static void packed_row(const weight *w, int64_t row, float *numbers) {
  const int64_t tile = row / LANES;
  const int lane = (int)(row % LANES);
  float scales[LANES], minima[LANES];
  for (int64_t c = 0; c < cells_of(w); c++) {
    int codes[CELL];
    int64_t seen = -1;
    codes_of_row(w, tile, lane, c, codes);
    for (int64_t i = 0, k = c * CELL; i < CELL && k < w->columns; i++, k++) {
      if (k / w->group != seen) {
        seen = k / w->group;
        store(scales, scales_at(w, tile, seen));
        store(minima, minima_at(w, tile, seen));
      }
      numbers[w->order ? w->order[k] : k] = scales[lane] * number_of(w, codes[i]) + minima[lane];
    }
  }
}

void embedding(const call *c, const worker *self) {
  enum { IDS, WEIGHT, Y, TABLE };
  enum { ROWS, COLUMNS, Y_STRIDE, TYPE, TABLE_STRIDE };
  const weight *w = c->at[WEIGHT];
  const int type = (int)c->size[TYPE], size = type == OF_FLOAT32 ? 4 : 2;
  const int64_t columns = c->size[COLUMNS];
  const int64_t rows = c->size[ROWS], last = rows * (self->index + 1) / self->count;
  for (int64_t r = rows * self->index / self->count; r < last; r++) {
    const int64_t row = ((const int32_t *)c->at[IDS])[r];
    char *to = (char *)c->at[Y] + r * c->size[Y_STRIDE];
    if (!w) {
      memcpy(to, (const char *)c->at[TABLE] + row * c->size[TABLE_STRIDE], (size_t)(columns * size));
    } else if (!w->bits) {
      const int64_t at = row / LANES * columns * LANES + row % LANES;
      for (int64_t k = 0; k < columns; k++) {
        const int64_t number = at + k * LANES;
        if (w->scaled == type) { /* bit by bit */
          memcpy(to + k * size, w->codes + number * size, (size_t)size);
        } else {
          const float wide = read_float(w->codes, w->scaled, number);
          write_floats(to, type, k, 1, &wide);
        }
      }
    } else if (type == OF_FLOAT32) {
      packed_row(w, row, (float *)to);
    } else {
      packed_row(w, row, (float *)self->own);
      write_floats(to, type, 0, columns, (const float *)self->own);
    }
  }
}

void embedding_scratch(const call *c, int threads, int64_t *own, int64_t *shared) {
  *own = c->size[1] * 4, *shared = 0;
  (void)threads;
}
