/* moe_experts: the feed-forward layers of the experts that each token goes to. */
#include "call.h"
#include "ops.h"
#include "products.h"

enum { X, EXPERTS, WEIGHTS, GATE, UP, DOWN, GATE_BIAS, UP_BIAS, DOWN_BIAS, Y };        /* at */
enum { TOKENS, TOP_K, COUNT, X_STRIDE, Y_STRIDE, TYPE, LIMBS, GELU };                  /* size */
enum { LIMIT, ALPHA, OFFSET };                                                         /* number */
#define WIDE (PAIR * LANES)

/* An expert that is named, and its rows: tokens that go to it, one after the other in the order of all pairs. */
typedef struct {
  int32_t expert, first, rows;
} segment;

typedef struct {
  int32_t *order;     /* [pairs]: which `token * top_k + slot` each row is */
  segment *segments;
  int64_t count, pairs;
} routes;

static int64_t rounded_up(int64_t bytes) { return (bytes + 63) / 64 * 64; }
static int64_t pairs_of(const call *c) { return c->size[TOKENS] * c->size[TOP_K]; }
static int64_t width_of(const weight *w) { return count_of(w->rows, WIDE) * WIDE; }
static int64_t bytes_of_routes(const call *c) { return rounded_up(4 * pairs_of(c) + (4 + 12) * c->size[COUNT]); }

/* Whether rows that are ready for one weight are so for the other. */
static int are_alike(const weight *a, const weight *b, int limbs) {
  return a->order == b->order && !a->bits == !b->bits && limbs_for(a, 1, limbs) == limbs_for(b, 1, limbs) &&
         limbs_for(a, 2, limbs) == limbs_for(b, 2, limbs);
}

/* Found by each thread for itself: that is quicker than to wait for another. */
static routes find_routes(const call *c, char *memory) {
  const int32_t *experts = c->at[EXPERTS];
  routes r = {(int32_t *)memory, NULL, 0, pairs_of(c)};
  int32_t *next = r.order + r.pairs, first = 0;
  r.segments = (segment *)(next + c->size[COUNT]);
  memset(next, 0, (size_t)c->size[COUNT] * 4);
  for (int64_t p = 0; p < r.pairs; p++) next[experts[p]]++;
  for (int32_t e = 0; e < c->size[COUNT]; e++) {
    const int32_t rows = next[e];
    next[e] = first;
    if (rows) r.segments[r.count++] = (segment){e, first, rows};
    first += rows;
  }
  for (int64_t p = 0; p < r.pairs; p++) r.order[next[experts[p]]++] = (int32_t)p;
  return r;
}

void moe_experts_scratch(const call *c, int threads, int64_t *own, int64_t *shared) {
  const weight *gate = c->at[GATE], *up = c->at[UP], *down = c->at[DOWN];
  const int64_t pairs = pairs_of(c), alike = are_alike(gate, up, (int)c->size[LIMBS]);
  int64_t most = product_scratch(gate), first = ready_bytes(gate, pairs) + (alike ? 0 : ready_bytes(up, pairs));
  most = product_scratch(up) > most ? product_scratch(up) : most;
  most = product_scratch(down) > most ? product_scratch(down) : most;
  const int64_t second = ready_bytes(down, pairs);
  *own = rounded_up(most) + 2 * WIDE * 4 * pairs + WIDE * 4 * c->size[TOKENS] + bytes_of_routes(c);
  *shared = rounded_up(pairs * width_of(gate) * 4) + (first > second ? first : second);
  (void)threads;
}

/* Rows of all segments made ready: a thread's part of them. `stride`: bytes from a token's row to the next; 0: each
   pair has a row of its own. */
static void fill_rows(const call *c, const worker *self, const routes *r, const weight *w, const ready *all,
                      const char *from, int64_t stride, int64_t of_pair, int type) {
  const int64_t begin = r->pairs * self->index / self->count, end = r->pairs * (self->index + 1) / self->count;
  for (int64_t s = 0; s < r->count; s++) {
    const segment *of = &r->segments[s];
    const ready x = part_of(all, w, of->first, of->rows, (int)c->size[LIMBS]);
    for (int64_t row = 0; row < of->rows; row++) {
      const int64_t i = of->first + row;
      if (i < begin || i >= end) continue;
      const int64_t token = r->order[i] / c->size[TOP_K];
      fill_row(w, &x, row, stride ? from + token * stride : from + i * of_pair, type);
    }
  }
}

INLINE floats bias_at(const call *c, int place, const weight *w, int64_t expert, int64_t row) {
  float numbers[LANES] = {0};
  for (int64_t i = 0; i < LANES && row + i < w->rows; i++)
    numbers[i] = read_float(c->at[place], (int)c->size[TYPE], expert * w->rows + row + i);
  return load(numbers);
}

/* What gates let pass of ups. */
INLINE floats gated(const call *c, floats gate, floats up) {
  const float limit = (float)c->number[LIMIT];
  gate = smaller(all(limit), gate); /* NaN stays NaN */
  up = larger(all(-limit), smaller(all(limit), up));
  floats turn = multiply(gate, all((float)c->number[ALPHA]));
  if (c->size[GELU]) { /* the sigmoid of twice the argument of tanh */
    floats cube = multiply(multiply(gate, gate), multiply(gate, all(0.044715f)));
    turn = multiply(add(gate, cube), all(1.5957691216f));
  }
  floats below = add(exponential(subtract(zeros(), turn)), all(1.0f));
  return multiply(divide(gate, below), add(up, all((float)c->number[OFFSET])));
}

static void gate_and_up(const call *c, const segment *of, int64_t tile, const ready *x, const ready *x_of_up, float *y,
                        float *hidden, char *scratch) {
  const weight gate = expert_of(c->at[GATE], of->expert), up = expert_of(c->at[UP], of->expert);
  const int tiles = tile + 1 < tiles_of(&gate) ? PAIR : 1;
  const ready of_gate = part_of(x, &gate, of->first, of->rows, (int)c->size[LIMBS]);
  const ready of_up = part_of(x_of_up, &up, of->first, of->rows, (int)c->size[LIMBS]);
  float *ups = y + of->rows * WIDE;
  multiply_tiles(&gate, &of_gate, tile, tiles, y, WIDE, scratch);
  multiply_tiles(&up, &of_up, tile, tiles, ups, WIDE, scratch);
  for (int t = 0; t < tiles; t++) {
    const int64_t at = (tile + t) * LANES;
    const floats gate_bias = c->at[GATE_BIAS] ? bias_at(c, GATE_BIAS, &gate, of->expert, at) : zeros();
    const floats up_bias = c->at[UP_BIAS] ? bias_at(c, UP_BIAS, &up, of->expert, at) : zeros();
    for (int64_t row = 0; row < of->rows; row++) {
      const floats g = add(load(y + row * WIDE + t * LANES), gate_bias);
      const floats u = add(load(ups + row * WIDE + t * LANES), up_bias);
      store(hidden + (of->first + row) * width_of(&gate) + at, gated(c, g, u));
    }
  }
}

/* A pair of tiles of y: of all experts, so that no other thread adds to it. */
static void down(const call *c, const routes *r, int64_t tile, const ready *all_rows, float *y, float *total,
                 char *scratch) {
  const weight *stack = c->at[DOWN];
  const int tiles = tile + 1 < tiles_of(stack) ? PAIR : 1;
  const int64_t left = stack->rows - tile * LANES, outputs = left < WIDE ? left : WIDE;
  memset(total, 0, (size_t)(c->size[TOKENS] * WIDE * 4));
  for (int64_t s = 0; s < r->count; s++) {
    const segment *of = &r->segments[s];
    const weight w = expert_of(stack, of->expert);
    const ready x = part_of(all_rows, &w, of->first, of->rows, (int)c->size[LIMBS]);
    multiply_tiles(&w, &x, tile, tiles, y, WIDE, scratch);
    for (int t = 0; t < tiles; t++) {
      const floats bias = c->at[DOWN_BIAS] ? bias_at(c, DOWN_BIAS, &w, of->expert, (tile + t) * LANES) : zeros();
      for (int64_t row = 0; row < of->rows; row++) {
        const int32_t pair = r->order[of->first + row];
        float *to = total + pair / c->size[TOP_K] * WIDE + t * LANES;
        const floats factor = all(((const float *)c->at[WEIGHTS])[pair]);
        store(to, multiply_add(factor, add(load(y + row * WIDE + t * LANES), bias), load(to)));
      }
    }
  }
  for (int64_t token = 0; token < c->size[TOKENS]; token++)
    write_floats((char *)c->at[Y] + token * c->size[Y_STRIDE], (int)c->size[TYPE], tile * LANES, outputs,
                 total + token * WIDE);
}

void moe_experts(const call *c, const worker *self) {
  const weight *gate = c->at[GATE], *up = c->at[UP], *of_down = c->at[DOWN];
  const int64_t pairs = pairs_of(c);
  char *own = self->own, *shared = self->shared;
  float *total = (float *)own, *y = total + WIDE * c->size[TOKENS];
  char *memory = (char *)(y + 2 * WIDE * pairs), *scratch = memory + bytes_of_routes(c);
  const routes r = find_routes(c, memory);
  float *hidden = (float *)shared;
  char *of_ready = shared + rounded_up(pairs * width_of(gate) * 4);
  const ready x = ready_in(of_ready, gate, pairs);
  const int alike = are_alike(gate, up, (int)c->size[LIMBS]);
  const ready x_of_up = alike ? x : ready_in(of_ready + ready_bytes(gate, pairs), up, pairs);
  fill_rows(c, self, &r, gate, &x, c->at[X], c->size[X_STRIDE], 0, (int)c->size[TYPE]);
  if (!alike) fill_rows(c, self, &r, up, &x_of_up, c->at[X], c->size[X_STRIDE], 0, (int)c->size[TYPE]);
  meet(self);
  const int64_t each = count_of(tiles_of(gate), PAIR), pieces = each * r.count;
  for (int64_t at = take_near(self, pieces); at >= 0; at = take_near(self, pieces))
    gate_and_up(c, &r.segments[at / each], at % each * PAIR, &x, &x_of_up, y, hidden, scratch);
  meet(self);
  share_anew(self);
  const ready rows = ready_in(of_ready, of_down, pairs);
  fill_rows(c, self, &r, of_down, &rows, (const char *)hidden, 0, width_of(gate) * 4, OF_FLOAT32);
  meet(self);
  const int64_t pairs_of_tiles = count_of(tiles_of(of_down), PAIR);
  for (int64_t at = take_near(self, pairs_of_tiles); at >= 0; at = take_near(self, pairs_of_tiles))
    down(c, &r, at * PAIR, &rows, y, total, scratch);
}
