/* Ops on elements: functions of one array, or of two. */
#include "ops.h"
#include "rows.h"

/* A thread's part: some of the rows, or where they are fewer than threads some columns of all. */
typedef struct {
  int64_t row, end, from, to;
} part;

static part part_of(const call *c, const worker *self) {
  const int64_t rows = c->size[ROWS], columns = c->size[COLUMNS], index = self->index, count = self->count;
  if (rows >= count) return (part){rows * index / count, rows * (index + 1) / count, 0, columns};
  const int64_t vectors = (columns + LANES - 1) / LANES, end = vectors * (index + 1) / count * LANES;
  return (part){0, rows, vectors * index / count * LANES, end < columns ? end : columns};
}

/* Defines an op on x: MADE says what 16 elements become. */
#define OF_ONE(name, made)                                                                        \
  void name(const call *c, const worker *self) {                                                  \
    enum { X, Y };                                                                                \
    enum { X_STRIDE = 2, Y_STRIDE, TYPE };                                                        \
    const int type = (int)c->size[TYPE];                                                          \
    const part mine = part_of(c, self);                                                           \
    for (int64_t r = mine.row; r < mine.end; r++) {                                               \
      const char *row = (const char *)c->at[X] + r * c->size[X_STRIDE];                           \
      char *to = (char *)c->at[Y] + r * c->size[Y_STRIDE];                                        \
      COLUMNS_FROM(mine.from, mine.to) {                                                          \
        floats x = GET(row, type);                                                                \
        PUT(to, type, made);                                                                      \
      }                                                                                           \
    }                                                                                             \
  }

/* Defines an op on x and y. y may have one number a row, of which all columns are made. */
#define OF_TWO(name, made)                                                                        \
  void name(const call *c, const worker *self) {                                                  \
    enum { X, Y, Z };                                                                             \
    enum { X_STRIDE = 2, Y_STRIDE, Z_STRIDE, TYPE, ONE_A_ROW };                                   \
    const int type = (int)c->size[TYPE];                                                          \
    const part mine = part_of(c, self);                                                           \
    for (int64_t r = mine.row; r < mine.end; r++) {                                               \
      const char *row = (const char *)c->at[X] + r * c->size[X_STRIDE];                           \
      const char *other = (const char *)c->at[Y] + r * c->size[Y_STRIDE];                         \
      char *to = (char *)c->at[Z] + r * c->size[Z_STRIDE];                                        \
      COLUMNS_FROM(mine.from, mine.to) {                                                          \
        floats x = GET(row, type);                                                                \
        floats y = c->size[ONE_A_ROW] ? all(read_float(other, type, 0)) : GET(other, type);       \
        PUT(to, type, made);                                                                      \
      }                                                                                           \
    }                                                                                             \
  }

/* A float attribute, or an integer one that stands for a word. */
#define ATTRIBUTE(n) all((float)c->number[n])

/* `1 + exp(-x)`: what is divided by it is multiplied by the sigmoid of x. */
INLINE floats over_sigmoid(floats x) { return add(exponential(subtract(zeros(), x)), all(1.0f)); }

/* Of the normal distribution, how likely a number is below x: the tail as a polynomial in t = 1 / (1 + 0.35 |x|) times
   t exp(-x^2 / 2), fitted to within 2e-8. */
INLINE floats normal_cdf(floats x) {
  floats size = size_of(x), t = divide(all(1.0f), multiply_add(size, all(0.35f), all(1.0f)));
  floats p = all(4.084334882e-02f);
  p = multiply_add(p, t, all(-1.681345569e-01f));
  p = multiply_add(p, t, all(1.825660459e-01f));
  p = multiply_add(p, t, all(3.460067914e-02f));
  p = multiply_add(p, t, all(1.307771811e-01f));
  p = multiply_add(p, t, all(1.398309786e-01f));
  p = multiply_add(p, t, all(1.395163405e-01f));
  floats tail = multiply(multiply(p, t), exponential(multiply(multiply(x, x), all(-0.5f))));
  ints is_below;
  UNROLL EACH is_below.r[i_] = x.r[i_] < 0;
  return choose(is_below, tail, subtract(all(1.0f), tail));
}

/* gelu, exact or by tanh: (1 + tanh(u)) / 2 is the sigmoid of 2u, without the cancellation at -1. */
INLINE floats gelu_of(floats x, int by_tanh) {
  if (!by_tanh) return multiply(x, normal_cdf(x));
  floats cubed = multiply(multiply(x, x), x);
  return divide(x, over_sigmoid(multiply(multiply_add(cubed, all(0.044715f), x), all(1.59576912f))));
}

/* silu of the gate within the limit times up within it, with a factor in the sigmoid and a sum at the end. NaN stays:
   of two numbers `smaller` and `larger` give the second where either is none. */
INLINE floats swiglu_of(floats gate, floats up, floats limit, floats alpha, floats offset) {
  gate = smaller(limit, gate);
  up = larger(subtract(zeros(), limit), smaller(limit, up));
  return multiply(divide(gate, over_sigmoid(multiply(alpha, gate))), add(up, offset));
}

enum { FIRST, SECOND, THIRD }; /* float attributes */

OF_ONE(silu, divide(x, over_sigmoid(x)))
OF_ONE(sigmoid, divide(all(1.0f), over_sigmoid(x)))
OF_ONE(gelu, gelu_of(x, c->number[FIRST] != 0))
OF_ONE(scale_rows, multiply(x, ATTRIBUTE(FIRST)))
OF_ONE(softcap, multiply(hyperbolic_tangent(divide(x, ATTRIBUTE(FIRST))), ATTRIBUTE(FIRST)))

OF_TWO(add_rows, add(x, y))
OF_TWO(mul_rows, multiply(x, y))
OF_TWO(swiglu, swiglu_of(x, y, ATTRIBUTE(FIRST), ATTRIBUTE(SECOND), ATTRIBUTE(THIRD)))
OF_TWO(geglu, multiply(gelu_of(x, c->number[FIRST] != 0), y))
