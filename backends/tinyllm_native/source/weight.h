/* A weight as it is packed: tiles of 16 rows, cells of 32 columns.

   A cell holds codes, unsigned integers of 2 to 8 bits. The number at a row and column is `scale * (number of the code
   - zero) + minimum`, scale and minimum being those of the row and of the group that the column is in; the number of
   a code is the code itself, what a table of 16 says, or a float of 8 bits. A minimum may be held as a zero of the
   group, the integer that stands for 0. Codes lie in planes, so that a plane's vectors hold four
   neighbouring columns of each row at a lane, a quad:

     nibbles  256 bytes: vector i has quad i in its lower halves and quad i + 4 in the upper ones
     pairs    128 bytes: vector i has quads i, i + 2, i + 4 and i + 6, from the lowest bits
     bits      64 bytes: quad i in bit i

   2 bits are pairs; 3 pairs and bits; 4 nibbles; 5 nibbles and bits; 6 nibbles and pairs; 8 bits 8 vectors of bytes.
   Scales of a group lie side by side for the rows of a tile. Dense weights have no cells: a column of a tile is 16
   numbers. */
#ifndef TINYLLM_WEIGHT_H
#define TINYLLM_WEIGHT_H

#include "vector.h"

#define CELL 32

enum { FLOAT32, FLOAT16, BFLOAT16, TWO_LEVELS, TWO_LEVELS_SIGNED, OF_8_BITS };
enum { NO_TABLE, NON_LINEAR, E2M1, NF4, E4M3 };  /* from NF4 on numbers are no integers of 8 bits */
enum { NO_MINIMUMS, MINIMUMS, ZEROS, IN_SCALES }; /* the last: a byte has a scale below and a minimum above */

typedef struct {
  int32_t bits;     /* of a code; 0: the weight is dense */
  int32_t zero;
  int32_t table;    /* one of NO_TABLE, ... */
  int32_t scaled;   /* how scales and minimums are held: one of FLOAT32, ...; of a dense weight its own numbers */
  int32_t group;    /* columns that share a scale */
  int32_t minimums; /* one of NO_MINIMUMS, ... */
  int32_t sparse;   /* whether some tile is multiplied in floats only */
  int32_t unused;
  int64_t rows, columns;
  int64_t groups, blocks; /* of a row: how many groups, and how many blocks of 256 columns */
  const uint8_t *codes;   /* [tiles, cells, 64 * bits]; dense: [tiles, columns, 16] numbers */
  const void *scales;     /* [tiles, groups, 16] floats; with two levels, or of 8 bits, bytes */
  const void *minima;     /* the same; zeros are bytes; NULL where they stand in scales */
  const void *supers;     /* with two levels, float16 [tiles, blocks, 2, 16]: factors of scales and minimums; scales of
                             8 bits: float32 [tiles, 16], their factors */
  const uint8_t *in_floats; /* [tiles]: 1 where weights of 0 stand so thickly that integers would not be exact */
  const int32_t *order;   /* the input of each column, or NULL */
} weight;

INLINE int64_t count_of(int64_t number, int64_t each) { return (number + each - 1) / each; }
INLINE int64_t tiles_of(const weight *w) { return count_of(w->rows, LANES); }
INLINE int64_t cells_of(const weight *w) { return count_of(w->columns, CELL); }

/* A matrix of a stack: they lie one after the other, each in tiles of its own, and have one order of columns. */
INLINE weight expert_of(const weight *stack, int64_t number) {
  weight w = *stack;
  const int64_t tiles = number * tiles_of(stack);
  const int64_t bytes = w.scaled == FLOAT32 ? 4 : w.scaled < TWO_LEVELS ? 2 : 1, of_scales = tiles * w.groups * LANES;
  w.codes += tiles * (w.bits ? cells_of(&w) * 64 * w.bits : w.columns * LANES * bytes);
  if (!w.bits) return w;
  w.scales = (const char *)w.scales + of_scales * bytes;
  if (w.minima) w.minima = (const char *)w.minima + of_scales * (w.minimums == ZEROS ? 1 : bytes);
  if (w.supers) w.supers = (const char *)w.supers + tiles * LANES * (w.scaled == OF_8_BITS ? 4 : w.blocks * 4);
  w.in_floats += tiles;
  return w;
}

/* Tables as unsigned bytes: 128 is added, and taken off again as part of `zero`. */
static const uint8_t TABLES[3][16] = {
    {0},
    {1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241},
    {128, 129, 130, 131, 132, 134, 136, 140, 128, 127, 126, 125, 124, 122, 120, 116},
};

/* The numbers of a cell's codes: 8 quads. `bits` and `table` are constants where this is called. */
INLINE void read_cell(int bits, int table, const uint8_t *cell, bytes quads[8]) {
  if (bits == 8) {
    for (int i = 0; i < 8; i++) quads[i] = load_bytes(cell + 64 * i);
    return;
  }
  const uint8_t *upper = cell;
  if (bits >= 4) {
    UNROLL for (int i = 0; i < 4; i++) {
      bytes pair = load_bytes(cell + 64 * i);
      quads[i] = low_bits(pair, 4);
      quads[i + 4] = low_bits(shift_right(pair, 4), 4);
    }
    upper += 256;
  }
  if (bits == 2 || bits == 3 || bits == 6) {
    UNROLL for (int i = 0; i < 2; i++) {
      bytes four = load_bytes(upper + 64 * i);
      UNROLL for (int j = 0; j < 4; j++) {
        bytes pair = low_bits(j ? shift_right(four, 2 * j) : four, 2);
        quads[i + 2 * j] = bits == 6 ? either(quads[i + 2 * j], shift_bytes_left(pair, 4)) : pair;
      }
    }
    upper += 128;
  }
  if (bits == 3 || bits == 5) {
    bytes eight = load_bytes(upper);
    UNROLL for (int i = 0; i < 8; i++) {
      bytes bit = low_bits(i ? shift_right(eight, i) : eight, 1);
      quads[i] = either(quads[i], shift_bytes_left(bit, bits - 1));
    }
  }
  if (table && table < NF4)
    for (int i = 0; i < 8; i++) quads[i] = look_up(quads[i], TABLES[table]);
}

/* The numbers of an NF4 code. */
static const float QUANTILES[16] = {
    -1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f,
    -0.28444138169288635f, -0.18477343022823334f, -0.09105003625154495f, 0.0f,
    0.07958029955625534f, 0.16093020141124725f, 0.24611230194568634f, 0.33791524171829224f,
    0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f, 1.0f};

/* Floats of 1 sign, 4 exponent and 3 mantissa bits, from their bits: as integers they are 2^9 times too large. */
INLINE floats from_e4m3(ints codes) {
  UNROLL EACH {
    int_register exponent = codes.r[i_] >> 3 & 15, normal = exponent > 0; /* -1 where it is */
    int_register size = ((codes.r[i_] & 7) | (normal & 8)) << (exponent + normal);
    int_register sign = -(codes.r[i_] >> 7);
    codes.r[i_] = (size ^ sign) - sign;
  }
  return multiply(to_floats(codes), all(0x1p-9f));
}
INLINE floats load_e4m3(const uint8_t *from) {
  int32_t wide[LANES];
  for (int i = 0; i < LANES; i++) wide[i] = from[i];
  return from_e4m3(load_ints(wide));
}

/* The lower or the upper 4 bits of bytes. */
INLINE floats load_nibbles(const uint8_t *from, int shift) {
  uint8_t numbers[LANES];
  for (int i = 0; i < LANES; i++) numbers[i] = from[i] >> shift & 15;
  return load_unsigned_bytes(numbers);
}

/* Scales of the rows of a tile in a group. */
INLINE floats scales_at(const weight *w, int64_t tile, int64_t group) {
  int64_t at = (tile * w->groups + group) * LANES;
  switch (w->scaled) {
    case FLOAT32: return load((const float *)w->scales + at);
    case FLOAT16: return load_float16((const uint16_t *)w->scales + at);
    case BFLOAT16: return load_bfloat16((const uint16_t *)w->scales + at);
    case OF_8_BITS:
      return multiply(load_e4m3((const uint8_t *)w->scales + at), load((const float *)w->supers + tile * LANES));
    default: {
      int64_t block = tile * w->blocks + group * w->group / 256;
      floats factor = load_float16((const uint16_t *)w->supers + block * 2 * LANES);
      if (w->minimums == IN_SCALES) return multiply(factor, load_nibbles((const uint8_t *)w->scales + at, 0));
      return multiply(factor, w->scaled == TWO_LEVELS ? load_unsigned_bytes((const uint8_t *)w->scales + at)
                                                      : load_signed_bytes((const int8_t *)w->scales + at));
    }
  }
}
INLINE floats minima_at(const weight *w, int64_t tile, int64_t group) {
  int64_t at = (tile * w->groups + group) * LANES;
  if (!w->minimums) return zeros();
  if (w->minimums == ZEROS)
    return multiply(subtract(zeros(), scales_at(w, tile, group)), load_unsigned_bytes((const uint8_t *)w->minima + at));
  switch (w->scaled) {
    case FLOAT32: return load((const float *)w->minima + at);
    case FLOAT16: return load_float16((const uint16_t *)w->minima + at);
    case BFLOAT16: return load_bfloat16((const uint16_t *)w->minima + at);
    default: {
      int64_t block = tile * w->blocks + group * w->group / 256;
      floats factor = load_float16((const uint16_t *)w->supers + (block * 2 + 1) * LANES); /* it is negative */
      if (w->minimums == IN_SCALES) return multiply(factor, load_nibbles((const uint8_t *)w->scales + at, 4));
      return multiply(factor, load_unsigned_bytes((const uint8_t *)w->minima + at));
    }
  }
}

/* Codes of 8 bits, and numbers of a table, can be any byte. */
INLINE int number_bits(const weight *w) { return w->table ? 8 : w->bits; }

/* Whether they are integers at all. */
INLINE int has_integers(const weight *w) { return w->bits && w->table < NF4; }

#endif
