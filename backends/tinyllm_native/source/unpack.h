/* A pair of tiles unpacked, for many rows of x. */
#ifndef TINYLLM_UNPACK_H
#define TINYLLM_UNPACK_H

#include "products.h"

typedef struct {
  bytes quads[PAIR][8];
  floats scales[2][PAIR], minima[2][PAIR]; /* of each half of the cell */
} unpacked;

INLINE void unpack_as(int bits, int table, const weight *w, int64_t first, int tiles, int shift, unpacked *to) {
  const int64_t cells = cells_of(w), groups = w->groups;
  for (int t = 0; t < PAIR; t++) {
    const int64_t tile = first + (t < tiles ? t : 0);
    for (int64_t c = 0; c < cells; c++) {
      read_cell(bits, table, w->codes + (tile * cells + c) * 64 * bits, to[c].quads[t]);
      for (int h = 0; h < 2; h++) {
        int64_t group = (c * CELL + h * LANES) / w->group;
        if (group >= groups) group = groups - 1; /* the padding of the last cell */
        if (h && group == (c * CELL) / w->group) {
          to[c].scales[1][t] = to[c].scales[0][t], to[c].minima[1][t] = to[c].minima[0][t];
        } else {
          to[c].scales[h][t] = scales_at(w, tile, group);
          to[c].minima[h][t] = shifted_minima(w, tile, group, to[c].scales[h][t], shift);
        }
      }
    }
  }
}

#define UNPACK(of_bits, of_table)                                         \
  if (w->bits == of_bits && w->table == of_table) {                       \
    unpack_as(of_bits, of_table, w, first, tiles, shift, to);             \
    return;                                                               \
  }

static void unpack(const weight *w, int64_t first, int tiles, int shift, unpacked *to) {
  UNPACK(4, 0)
  UNPACK(8, 0)
  UNPACK(6, 0)
  UNPACK(5, 0)
  UNPACK(3, 0)
  UNPACK(2, 0)
  UNPACK(4, NON_LINEAR)
  UNPACK(4, E2M1)
}

#endif
