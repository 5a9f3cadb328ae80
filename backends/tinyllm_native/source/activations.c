#include "activations.h"

/* How many times the mean size of its cell a number may be. A cell of normal numbers has about 3; the error of a sum
   over one cell is then at most so many halves of an ulp of the sum of the products' sizes, and a tenth of that in
   the mean. */
#define STANDS_OUT 12.0f
/* Sizes past which products of scales could leave float32. */
#define SMALL 0x1p-90f
#define LARGE 0x1p100f

/* Numbers that stand out, one after the other, until none does. What stays is in `x`, 0 in their places. */
static uint32_t take_outliers(float x[CELL]) {
  uint32_t outliers = 0;
  for (;;) {
    int most = -1, count = 0;
    float total = 0;
    for (int i = 0; i < CELL; i++) {
      float size = fabsf(x[i]);
      if (outliers >> i & 1) continue;
      if (!(size <= LARGE) || (size < SMALL && size > 0)) {
        outliers |= 1u << i;
        x[i] = 0;
        continue;
      }
      count++;
      total += size;
      if (most < 0 || size > fabsf(x[most])) most = i;
    }
    if (most < 0 || !(fabsf(x[most]) * (float)count > STANDS_OUT * total)) return outliers;
    outliers |= 1u << most;
    x[most] = 0;
  }
}

INLINE ints rounded(floats x) { /* below 2^23, halves away from 0 */
  ints whole;
  UNROLL EACH {
    int_register sign = (int_register)x.r[i_] & INT32_MIN;
    float_register half = (float_register)(sign | 0x3f000000);
    whole.r[i_] = __builtin_convertvector(x.r[i_] + half, int_register);
  }
  return whole;
}

INLINE ints lowest_byte(ints x) {
  UNROLL EACH x.r[i_] = (x.r[i_] << 24) >> 24;
  return x;
}
INLINE ints without(ints x, ints byte) {
  UNROLL EACH x.r[i_] = (x.r[i_] - byte.r[i_]) >> 8;
  return x;
}
typedef int8_t part_of_bytes __attribute__((vector_size(REGISTER_BYTES / 4)));
INLINE void store_lowest(int8_t *to, ints x) {
  UNROLL EACH {
    part_of_bytes narrow = __builtin_convertvector(x.r[i_], part_of_bytes);
    memcpy(to + i_ * sizeof narrow, &narrow, sizeof narrow);
  }
}

/* The bytes of a half's integers, and their sums. `limbs` is a constant where this is called. */
INLINE void write_half(int limbs, int h, ints whole, cell_of_x *to) {
  to->whole[h] = sum_of_ints(whole);
  to->upper[h] = 0;
  to->sums[h] = to->scale * (float)to->whole[h];
  if (limbs == 1) {
    store_lowest(to->limbs[2] + LANES * h, whole);
    return;
  }
  ints low = lowest_byte(whole), rest = without(whole, low);
  ints middle = lowest_byte(rest), high = without(rest, middle);
  store_lowest(to->limbs[0] + LANES * h, high);
  store_lowest(to->limbs[1] + LANES * h, middle);
  store_lowest(to->limbs[2] + LANES * h, low);
  to->upper[h] = sum_of_ints(high);
}

int to_cells(const float *x, int64_t cells, int limbs, cell_of_x *to) {
  const float range = limbs == 3 ? 8323072.0f : 127.0f;
  int any = 0;
  for (int64_t c = 0; c < cells; c++, x += CELL, to++) {
    floats half[2] = {load(x), load(x + LANES)};
    floats sizes = add(size_of(half[0]), size_of(half[1]));
    float most = largest(larger(size_of(half[0]), size_of(half[1]))), all_sizes = sum(sizes);
    to->outliers = 0;
    if (!(most * CELL <= STANDS_OUT * all_sizes && most >= SMALL && all_sizes <= LARGE)) { /* also of NaN, and of 0 */
      float kept[CELL];
      memcpy(kept, x, sizeof kept);
      to->outliers = take_outliers(kept);
      any |= to->outliers != 0;
      half[0] = load(kept), half[1] = load(kept + LANES);
      most = largest(larger(size_of(half[0]), size_of(half[1])));
    }
    float factor = most > 0 ? range / most : 0.0f;
    to->scale = most / range;
    for (int h = 0; h < 2; h++) {
      ints whole = rounded(multiply(half[h], all(factor)));
      if (limbs == 1) write_half(1, h, whole, to);
      else write_half(3, h, whole, to);
    }
  }
  return any;
}
