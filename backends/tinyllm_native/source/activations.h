/* Activations as integers: exact products with weights of few bits.

   The numbers of a cell of 32 columns become integers of 24 bits relative to the largest of them, and those three
   signed bytes, of which sums of products with codes are exact in 32 bits. What that rounds is half a step of the
   largest, so a number that stands out from its cell is taken out of it, and so is what is not finite: those are
   multiplied in floats. The fewer bytes of --fast round more, in the same way. */
#ifndef TINYLLM_ACTIVATIONS_H
#define TINYLLM_ACTIVATIONS_H

#include "weight.h"

typedef struct {
  int8_t limbs[3][CELL]; /* the integer is limbs[0] * 2^16 + limbs[1] * 2^8 + limbs[2] */
  float scale;           /* of the integers */
  float sums[2];         /* of the numbers in each half of the cell, as the integers say them */
  int32_t whole[2];      /* sums of the integers, modulo 2^32 */
  int32_t upper[2];      /* sums of limbs[0] */
  uint32_t outliers;     /* bit i: column i is 0 among the integers, and multiplied in floats */
} cell_of_x;

/* Float32 numbers `[columns]`, padded with 0 to whole cells, as cells of integers of `limbs` bytes, 3 or 1. Returns
   whether any has outliers. */
int to_cells(const float *x, int64_t cells, int limbs, cell_of_x *to);

#endif
