/* Attention of some rows of queries over a block of keys, with the largest score so far taken off: what came before is
   scaled down whenever a block has a larger one (Milakov and Gimelshein 2018, arXiv:1805.02867). */
#ifndef TINYLLM_ATTENTION_BLOCK_H
#define TINYLLM_ATTENTION_BLOCK_H

#include "call.h"

#define KEYS 64      /* of a block */
#define KEY_TILES (KEYS / LANES)
#define MOST_ROWS 96 /* of queries that are attended to at a time: a block of keys is turned around once for them */
#define ROWS_AT_A_TIME 6

/* What rows have of the keys seen so far. */
typedef struct {
  float *sums;   /* [rows, width]: of weights times values */
  float *totals; /* [rows, LANES]: of weights, by lanes */
  float *top;    /* [rows]: the largest scores, -inf at first */
} seen;

/* How scores become weights. */
typedef struct {
  float softcap;  /* 0: none */
  int64_t window; /* 0: none */
} settings;

/* Numbers `[count, 16 * tiles]` of a dtype, rows `stride` bytes apart. */
typedef struct {
  const char *at;
  int type;
  int64_t stride, count;
} matrix;

/* y = x times m plus what y was times `kept` of its row; without `kept` y is not read.

   x: [rows, m->count]. y: [rows, 16 * tiles]. Strides are in floats. later: numbers like those of m, whose memory is
   asked for meanwhile, where rows are few; or NULL. */
void multiply_rows(int64_t rows, int64_t tiles, const float *x, int64_t x_stride, const matrix *m, const float *kept,
                   float *y, int64_t y_stride, const char *later);

/* Fill `to[column * KEYS + i]` with the columns of 16 keys of a dtype. later: keys whose memory is asked for
   meanwhile. */
void turn_keys(const char *const keys[LANES], int type, int64_t columns, float *to, const char *const later[LANES]);

/* Turn scores `[rows, KEYS]` of `count` keys, of which the first has number `first`, into weights. Fills `kept`, up to
   a multiple of 16 rows, with the factors of earlier sums.

   position: [rows], the number of the last key that each row attends to. */
void weigh(const settings *s, int64_t rows, const int64_t *position, int64_t first, int64_t count, float *scores,
           const seen *of, float *kept);

#endif
