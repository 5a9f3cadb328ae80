/* Weights as they come, blocks of GGUF files, streams of codes or floats, laid out in tiles and cells. */
#include "call.h"
#include "products.h"

/* Source formats; the order is that of `SOURCES` in the package's `packing.py`. */
enum { Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS, MXFP4, NVFP4,
       STREAM, INT8, DENSE };

enum { SOURCE, SCALES, MINIMA, WEIGHT };       /* at */
enum { FORMAT, SOURCE_TYPE };                  /* size */

typedef struct { int columns, bytes; } block;
static const block BLOCKS[] = {{32, 18}, {32, 20}, {32, 22}, {32, 24}, {32, 34}, {256, 84}, {256, 110}, {256, 144},
                               {256, 176}, {256, 210}, {32, 18}, {256, 136}, {32, 17}, {64, 36}};

static uint16_t half_at(const uint8_t *from) { return (uint16_t)(from[0] | from[1] << 8); }
static int nibble(const uint8_t *from, int i) { return from[i % 16] >> 4 * (i / 16) & 15; }

/* The code of column `i` of part `part` (32 columns) of a block. */
static void codes_of(int format, const uint8_t *b, int part, uint8_t codes[CELL]) {
  for (int i = 0; i < CELL; i++) {
    switch (format) {
      case Q4_0: case IQ4_NL: codes[i] = (uint8_t)nibble(b + 2, i); break;
      case Q4_1: codes[i] = (uint8_t)nibble(b + 4, i); break;
      case Q5_0: codes[i] = (uint8_t)(nibble(b + 6, i) | (b[2 + i / 8] >> i % 8 & 1) << 4); break;
      case Q5_1: codes[i] = (uint8_t)(nibble(b + 8, i) | (b[4 + i / 8] >> i % 8 & 1) << 4); break;
      case Q8_0: codes[i] = (uint8_t)(b[2 + i] + 128); break;
      case Q2_K: codes[i] = b[16 + 32 * (part / 4) + i] >> 2 * (part % 4) & 3; break;
      case Q3_K:
        codes[i] = (uint8_t)((b[32 + 32 * (part / 4) + i] >> 2 * (part % 4) & 3) | (b[i] >> part & 1) << 2);
        break;
      case Q4_K: codes[i] = b[16 + 32 * (part / 2) + i] >> 4 * (part % 2) & 15; break;
      case Q5_K:
        codes[i] = (uint8_t)((b[48 + 32 * (part / 2) + i] >> 4 * (part % 2) & 15) | (b[16 + i] >> part & 1) << 4);
        break;
      case Q6_K: {
        const int half = part / 4, c = part % 4, column = 32 * c + i; /* of the 128 of a half */
        codes[i] = (uint8_t)((b[64 * half + column % 64] >> 4 * (column / 64) & 15) |
                             (b[128 + 32 * half + i] >> 2 * c & 3) << 4);
        break;
      }
      case IQ4_XS: codes[i] = (uint8_t)nibble(b + 8 + 16 * part, i); break;
      case MXFP4: codes[i] = (uint8_t)nibble(b + 1, i); break;
      case NVFP4: codes[i] = b[4 + 16 * part + 8 * (i / 16) + i % 8] >> 4 * (i / 8 % 2) & 15; break;
    }
  }
}

/* Of the group that begins at a column of a block of a K-quant: its integers. */
static void levels_of(int format, const uint8_t *b, int column, uint8_t *scale, uint8_t *minimum) {
  *minimum = 0;
  if (format == Q2_K) {
    *scale = b[column / 16] & 15, *minimum = b[column / 16] >> 4;
  } else if (format == Q3_K) {
    const int g = column / 16;
    const uint8_t *s = b + 96;
    *scale = (uint8_t)((s[g % 8] >> 4 * (g / 8) & 15) | (s[8 + g % 4] >> 2 * (g / 4) & 3) << 4);
    *scale = (uint8_t)(*scale - 32);
  } else if (format == Q4_K || format == Q5_K) {
    const int g = column / 32, j = g % 4;
    const uint8_t *s = b + 4;
    if (g < 4) {
      *scale = s[j] & 63, *minimum = s[4 + j] & 63;
    } else {
      *scale = (uint8_t)((s[8 + j] & 15) | (s[j] >> 2 & 48));
      *minimum = (uint8_t)((s[8 + j] >> 4) | (s[4 + j] >> 2 & 48));
    }
  } else if (format == Q6_K) {
    *scale = b[192 + column / 16];
  } else { /* IQ4_XS */
    const int g = column / 32;
    *scale = (uint8_t)((b[4 + g / 2] >> 4 * (g % 2) & 15) | (b[2 + g / 4] >> 2 * (g % 4) & 3) << 4);
    *scale = (uint8_t)(*scale - 32);
  }
}

/* Codes `[16, 32]` as planes. */
static void write_cell(int bits, uint8_t codes[LANES][CELL], uint8_t *to) {
  memset(to, 0, (size_t)(64 * bits));
  for (int lane = 0; lane < LANES; lane++)
    for (int i = 0; i < CELL; i++) {
      const int quad = i / 4, at = 4 * lane + i % 4;
      const uint8_t code = codes[lane][i];
      uint8_t *plane = to;
      if (bits == 8) {
        to[64 * quad + at] = code;
        continue;
      }
      if (bits >= 4) {
        plane[64 * (quad % 4) + at] |= (uint8_t)((code & 15) << 4 * (quad / 4));
        plane += 256;
      }
      if (bits == 2 || bits == 3 || bits == 6) {
        const int pair = (bits == 6 ? code >> 4 : code) & 3;
        plane[64 * (quad % 2) + at] |= (uint8_t)(pair << 2 * (quad / 2));
        plane += 128;
      }
      if (bits == 3 || bits == 5) plane[at] |= (uint8_t)((code >> (bits - 1) & 1) << quad);
    }
}

static uint16_t negative(uint16_t half) { return half ^ 0x8000; }

/* What a tile's scales, minimums and factors are. */
static void pack_scales(const call *c, const weight *w, int64_t tile) {
  const int format = (int)c->size[FORMAT], size = w->scaled == FLOAT32 ? 4 : w->scaled < TWO_LEVELS ? 2 : 1;
  const int of_minimum = w->minimums == ZEROS ? 1 : size;
  const int64_t groups = w->groups;
  uint8_t *scales = (uint8_t *)w->scales, *minima = (uint8_t *)w->minima;
  uint16_t *supers = (uint16_t *)w->supers;
  for (int lane = 0; lane < LANES; lane++) {
    const int64_t row = tile * LANES + lane;
    if (row >= w->rows) continue; /* what is made is 0 */
    for (int64_t g = 0; g < groups; g++) {
      const int64_t to = ((tile * groups + g) * LANES + lane) * size;
      if (format >= STREAM) {
        const int64_t from = row * groups + g;
        memcpy(scales + to, (const char *)c->at[SCALES] + from * size, (size_t)size);
        if (w->minimums)
          memcpy(minima + to / size * of_minimum, (const char *)c->at[MINIMA] + from * of_minimum, (size_t)of_minimum);
        continue;
      }
      const block of = BLOCKS[format];
      const int64_t column = g * w->group;
      const uint8_t *b = (const uint8_t *)c->at[SOURCE] +
                         (row * (w->columns / of.columns) + column / of.columns) * of.bytes;
      if (format == MXFP4) { /* 2^(e - 128), as the numbers of its codes are doubled */
        float scale = ldexpf(1.0f, b[0] - 128);
        uint32_t bits;
        memcpy(&bits, &scale, 4);
        const uint16_t upper = (uint16_t)(bits >> 16); /* bfloat16 holds every power of two that there is */
        memcpy(scales + to, &upper, 2);
      } else if (format == NVFP4) { /* a sign counts for nothing, and the one code that would be NaN is 0 */
        const uint8_t scale = b[column % 64 / 16];
        scales[to] = scale == 127 ? 0 : scale & 127;
      } else if (of.columns == 32) {
        memcpy(scales + to, b, 2);
        if (w->minimums) memcpy(minima + to, b + 2, 2);
      } else {
        uint8_t minimum;
        levels_of(format, b, (int)(column % 256), scales + to, &minimum);
        if (w->minimums == IN_SCALES) scales[to] |= (uint8_t)(minimum << 4);
        else if (w->minimums) minima[to] = minimum;
        if (column % 256 == 0) {
          uint16_t *factors = supers + (tile * (w->columns / 256) + column / 256) * 2 * LANES + lane;
          const uint8_t *d = format == Q4_K || format == Q5_K || format == IQ4_XS ? b : format == Q6_K ? b + 208
                             : format == Q3_K ? b + 108 : b + 80;
          factors[0] = half_at(d);
          if (w->minimums) factors[LANES] = negative(half_at(d + 2));
        }
      }
    }
  }
}

static void pack_dense(const call *c, const weight *w, int64_t tile) {
  const int size = w->scaled == FLOAT32 ? 4 : 2;
  char *to = (char *)w->codes + tile * w->columns * LANES * size;
  for (int lane = 0; lane < LANES; lane++) {
    const int64_t row = tile * LANES + lane;
    if (row >= w->rows) continue;
    const char *from = (const char *)c->at[SOURCE] + row * w->columns * size;
    if (size == 4)
      for (int64_t k = 0; k < w->columns; k++) memcpy(to + (k * LANES + lane) * 4, from + k * 4, 4);
    else
      for (int64_t k = 0; k < w->columns; k++) memcpy(to + (k * LANES + lane) * 2, from + k * 2, 2);
  }
}

/* Whether zeros stand so thickly in some group of a row that what integers round there could be more than what the
   other weights give. */
static int is_sparse(const weight *w, int64_t tile, const float *numbers) {
  for (int lane = 0; lane < LANES; lane++)
    for (int64_t c = 0; c < cells_of(w); c++) {
      int others = 0, zeros = 0;
      for (int i = 0; i < CELL && c * CELL + i < w->columns; i++)
        if (numbers[(c * CELL + i) * LANES + lane] != 0) others++; else zeros++;
      if (zeros > 3 * others && others) return 1;
    }
  (void)tile;
  return 0;
}

void pack_scratch(const call *c, int threads, int64_t *own, int64_t *shared) {
  const weight *w = c->at[WEIGHT];
  *own = w->bits ? cells_of(w) * CELL * LANES * 4 : 0;
  *shared = 0;
  (void)threads;
}

void pack(const call *c, const worker *self) {
  const weight *w = c->at[WEIGHT];
  const int format = (int)c->size[FORMAT];
  const int64_t cells = cells_of(w);
  for (int64_t tile = take(self); tile < tiles_of(w); tile = take(self)) {
    if (format == DENSE) {
      pack_dense(c, w, tile);
      continue;
    }
    for (int64_t cell = 0; cell < cells; cell++) {
      uint8_t codes[LANES][CELL];
      memset(codes, 0, sizeof codes);
      for (int lane = 0; lane < LANES && tile * LANES + lane < w->rows; lane++) {
        const int64_t row = tile * LANES + lane;
        const int64_t count = w->columns - cell * CELL < CELL ? w->columns - cell * CELL : CELL;
        if (format == STREAM) {
          const uint8_t *bits = (const uint8_t *)c->at[SOURCE] + row * (w->columns * w->bits / 8);
          for (int i = 0; i < count; i++) {
            const int64_t bit = (cell * CELL + i) * w->bits;
            const int two = bits[bit / 8] | (bit % 8 + w->bits > 8 ? bits[bit / 8 + 1] << 8 : 0);
            codes[lane][i] = (uint8_t)(two >> bit % 8 & ((1 << w->bits) - 1));
          }
        } else if (format == INT8) {
          const uint8_t *from = (const uint8_t *)c->at[SOURCE] + row * w->columns + cell * CELL;
          for (int i = 0; i < count; i++) codes[lane][i] = (uint8_t)(from[i] + 128);
        } else {
          const block of = BLOCKS[format];
          const int64_t blocks = w->columns / of.columns, at = cell * CELL / of.columns;
          codes_of(format, (const uint8_t *)c->at[SOURCE] + (row * blocks + at) * of.bytes,
                   (int)(cell * CELL % of.columns / CELL), codes[lane]);
        }
      }
      write_cell(w->bits, codes, (uint8_t *)w->codes + (tile * cells + cell) * 64 * w->bits);
    }
    pack_scales(c, w, tile);
    numbers_of_tile(w, tile, 0, cells * CELL, (float *)self->own);
    ((uint8_t *)w->in_floats)[tile] = (uint8_t)is_sparse(w, tile, (const float *)self->own);
  }
}
