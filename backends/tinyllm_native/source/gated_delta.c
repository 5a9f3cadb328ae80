/* gated_delta: the gated delta rule, token by token. Columns of a head's state have nothing to do with one another, so
   that a few of them at a time are taken through a block of tokens, and stay in the innermost cache. */
#include "ops.h"
#include "recurrent.h"

#define EPS 1e-6f
#define BLOCK 32 /* tokens */
/* Vectors of columns that are gone through together, and rows of the state whose sums do not wait for one another: as
   many as there are registers for. */
#if REGISTERS == 1
#define SIDE_BY_SIDE 2
#define AT_ONCE 4
#elif REGISTERS == 2
#define SIDE_BY_SIDE 1
#define AT_ONCE 2
#else
#define SIDE_BY_SIDE 1
#define AT_ONCE 1
#endif

enum { Q, K, V, A, B, STATE, A_LOG, DT_BIAS, Q_START, KV_LEN, STATE_ROWS, Y }; /* at */
enum {                                                                         /* size */
  HEADS = 2, VALUE_HEADS, DIM, VALUE_DIM, SEQUENCES, Q_STRIDE, K_STRIDE, V_STRIDE, A_STRIDE, B_STRIDE, Y_STRIDE,
  STATE_STRIDE, TYPE, STATE_TYPE, A_LOG_TYPE, DT_BIAS_TYPE, TILED
};

static int64_t padded(int64_t number) { return (number + LANES - 1) / LANES * LANES; }

/* A thread's memory: what a head is told of a block of tokens, and its state. */
typedef struct {
  float *keys, *queries;   /* [BLOCK, dim], of length 1 and scaled */
  float *values, *outputs; /* [BLOCK, padded value_dim] */
  float keep[BLOCK], learn[BLOCK];
  float *state;            /* [dim, padded value_dim] */
} memory;

static int64_t lay_out(const call *c, char *at, memory *m) {
  const int64_t dim = c->size[DIM], width = padded(c->size[VALUE_DIM]), counts[] = {BLOCK * dim, BLOCK * width};
  m->keys = (float *)at;
  m->queries = m->keys + padded(counts[0]);
  m->values = m->queries + padded(counts[0]);
  m->outputs = m->values + counts[1];
  m->state = m->outputs + counts[1];
  return (2 * padded(counts[0]) + 2 * counts[1] + dim * width) * 4;
}

void gated_delta_scratch(const call *c, int threads, int64_t *own, int64_t *shared) {
  (void)threads, (void)shared;
  memory m;
  *own = lay_out(c, NULL, &m);
}

int64_t work_of_delta(const call *c) { return c->size[ROWS] * c->size[COLUMNS]; }

static void unit(const char *from, int type, int64_t dim, float factor, float *to) {
  floats squares = zeros();
  COLUMNS_OF(dim) {
    const floats part = GET(from, type);
    squares = multiply_add(part, part, squares);
    PUT((char *)to, OF_FLOAT32, part);
  }
  const float length = sqrtf(sum(squares) + EPS) / factor;
  for (int64_t i = 0; i < dim; i++) to[i] /= length;
}

/* log(1 + e^x) without overflow. */
static float softplus(float x) { return (x > 0 ? x : 0) + log1pf(expf(-fabsf(x))); }

static void read_block(const call *c, int64_t head, int64_t first, int64_t count, memory *m) {
  const int type = (int)c->size[TYPE];
  const int64_t dim = c->size[DIM], value_dim = c->size[VALUE_DIM], bytes = bytes_of(type);
  const int64_t heads = c->size[HEADS];
  const int64_t key_head = c->size[TILED] ? head % heads : head / (c->size[VALUE_HEADS] / heads);
  const float rate = expf(read_float(c->at[A_LOG], (int)c->size[A_LOG_TYPE], head));
  const float offset = read_float(c->at[DT_BIAS], (int)c->size[DT_BIAS_TYPE], head);
  for (int64_t t = 0; t < count; t++) {
    const char *q = (const char *)c->at[Q] + (first + t) * c->size[Q_STRIDE] + key_head * dim * bytes;
    const char *k = (const char *)c->at[K] + (first + t) * c->size[K_STRIDE] + key_head * dim * bytes;
    const char *v = (const char *)c->at[V] + (first + t) * c->size[V_STRIDE] + head * value_dim * bytes;
    const float a = read_float((const char *)c->at[A] + (first + t) * c->size[A_STRIDE], type, head);
    const float b = read_float((const char *)c->at[B] + (first + t) * c->size[B_STRIDE], type, head);
    unit(q, type, dim, 1 / sqrtf((float)dim), m->queries + t * dim);
    unit(k, type, dim, 1, m->keys + t * dim);
    read_floats(v, type, value_dim, m->values + t * padded(value_dim));
    m->keep[t] = expf(-rate * softplus(a + offset));
    m->learn[t] = 1 / (1 + expf(-b));
  }
}


INLINE floats sum_of(floats sums[AT_ONCE][SIDE_BY_SIDE], int j) {
  floats total = sums[0][j];
  UNROLL for (int r = 1; r < AT_ONCE; r++) total = add(total, sums[r][j]);
  return total;
}

/* Sums of each column of the state `[dim, stride]` times a key. */
INLINE void known(int vectors, const float *state, int64_t stride, int64_t dim, const float *key, floats *to) {
  floats sums[AT_ONCE][SIDE_BY_SIDE];
  UNROLL for (int r = 0; r < AT_ONCE; r++)
  UNROLL for (int j = 0; j < vectors; j++) sums[r][j] = zeros();
  int64_t i = 0;
  for (; i + AT_ONCE <= dim; i += AT_ONCE)
    UNROLL for (int r = 0; r < AT_ONCE; r++)
    UNROLL for (int j = 0; j < vectors; j++)
      sums[r][j] = multiply_add(load(state + (i + r) * stride + j * LANES), all(key[i + r]), sums[r][j]);
  for (; i < dim; i++)
    UNROLL for (int j = 0; j < vectors; j++)
      sums[0][j] = multiply_add(load(state + i * stride + j * LANES), all(key[i]), sums[0][j]);
  UNROLL for (int j = 0; j < vectors; j++) to[j] = sum_of(sums, j);
}

/* A block of tokens for some columns. The pass in which the state learns a token adds up what it says of the next
   one's key as well. */
INLINE void columns(int vectors, const memory *m, float *state, int64_t stride, int64_t dim, int64_t count,
                    int64_t column, int64_t width) {
  floats next[SIDE_BY_SIDE];
  known(vectors, state, stride, dim, m->keys, next);
  for (int64_t t = 0; t < count; t++) {
    const float *key = m->keys + t * dim, *query = m->queries + t * dim;
    const float *coming = t + 1 < count ? key + dim : key;
    const floats keep = all(m->keep[t]), learn = all(m->learn[t]);
    floats wrong[SIDE_BY_SIDE], outputs[AT_ONCE][SIDE_BY_SIDE], sums[AT_ONCE][SIDE_BY_SIDE];
    UNROLL for (int j = 0; j < vectors; j++) {
      const floats value = load(m->values + t * width + column + j * LANES);
      wrong[j] = multiply(subtract(value, multiply(keep, next[j])), learn);
    }
    UNROLL for (int r = 0; r < AT_ONCE; r++)
    UNROLL for (int j = 0; j < vectors; j++) outputs[r][j] = sums[r][j] = zeros();
#define LEARN(i, r)                                                                                  \
  UNROLL for (int j = 0; j < vectors; j++) {                                                         \
    float *at = state + (i) * stride + j * LANES;                                                    \
    const floats s = multiply_add(wrong[j], all(key[i]), multiply(load(at), keep));                  \
    store(at, s);                                                                                    \
    outputs[r][j] = multiply_add(s, all(query[i]), outputs[r][j]);                                   \
    sums[r][j] = multiply_add(s, all(coming[i]), sums[r][j]);                                        \
  }
    int64_t i = 0;
    for (; i + AT_ONCE <= dim; i += AT_ONCE) UNROLL for (int r = 0; r < AT_ONCE; r++) LEARN(i + r, r)
    for (; i < dim; i++) LEARN(i, 0)
    UNROLL for (int j = 0; j < vectors; j++) {
      store(m->outputs + t * width + column + j * LANES, sum_of(outputs, j));
      next[j] = sum_of(sums, j);
    }
  }
}

/* A head of a sequence: its state is changed where it lies if its numbers are as they are computed with, else in a
   copy. */
static void go_through(const call *c, const sequence *of, int64_t head, memory *m) {
  const int type = (int)c->size[TYPE], state_type = (int)c->size[STATE_TYPE];
  const int64_t dim = c->size[DIM], value_dim = c->size[VALUE_DIM], width = padded(value_dim);
  char *kept = (char *)c->at[STATE] + of->row * c->size[STATE_STRIDE] + head * dim * value_dim * bytes_of(state_type);
  const int in_place = state_type == OF_FLOAT32 && width == value_dim;
  float *state = in_place ? (float *)kept : m->state;
  if (of->begins) memset(state, 0, (size_t)(dim * width) * 4);
  for (int64_t i = 0; i < dim && !in_place && !of->begins; i++)
    read_floats(kept + i * value_dim * bytes_of(state_type), state_type, value_dim, state + i * width);
  for (int64_t first = of->first; first < of->first + of->count; first += BLOCK) {
    const int64_t left = of->first + of->count - first, count = left < BLOCK ? left : BLOCK;
    read_block(c, head, first, count, m);
    int64_t column = 0;
    for (; column + SIDE_BY_SIDE * LANES <= width; column += SIDE_BY_SIDE * LANES)
      columns(SIDE_BY_SIDE, m, state + column, width, dim, count, column, width);
    if (column < width) columns(1, m, state + column, width, dim, count, column, width);
    for (int64_t t = 0; t < count; t++) {
      char *y = (char *)c->at[Y] + (first + t) * c->size[Y_STRIDE];
      write_floats(y, type, head * value_dim, value_dim, m->outputs + t * width);
    }
  }
  for (int64_t i = 0; i < dim && !in_place; i++)
    write_floats(kept, state_type, i * value_dim, value_dim, state + i * width);
}

/* Threads take a head of a sequence at a time. */
void gated_delta(const call *c, const worker *self) {
  memory m;
  memset(self->own, 0, (size_t)lay_out(c, self->own, &m)); /* lanes past the last column */
  const int64_t units = c->size[SEQUENCES] * c->size[VALUE_HEADS];
  for (int64_t next = take(self); next < units; next = take(self)) {
    const sequence of = sequence_of(c->at[Q_START], c->at[KV_LEN], c->at[STATE_ROWS], next / c->size[VALUE_HEADS]);
    if (of.count) go_through(c, &of, next % c->size[VALUE_HEADS], &m);
  }
}
