/* moe_router: which experts each token goes to. */
#include "call.h"
#include "ops.h"

enum { LOGITS, BIAS, SCALE, EXPERTS, WEIGHTS };                                                     /* at */
enum { TOKENS, COUNT, STRIDE, TYPE, BIAS_TYPE, SCALE_TYPE, TOP_K, SCORE, NORMALIZE, GROUPS, KEPT }; /* size */
enum { SCALING };                                                                                   /* number */
enum { SOFTMAX, SIGMOID, SOFTMAX_OF_CHOSEN };
#define LEAST_SUM 1e-20f

static float exponent(float x) {
  float numbers[LANES];
  store(numbers, exponential(all(x)));
  return numbers[0];
}

static void softmax_of(const float *x, int64_t count, float *to) {
  float most = -INFINITY, total = 0;
  for (int64_t i = 0; i < count; i++) most = x[i] > most || x[i] != x[i] ? x[i] : most;
  for (int64_t i = 0; i < count; i += LANES) {
    float part[LANES];
    for (int64_t j = 0; j < LANES; j++) part[j] = i + j < count ? x[i + j] - most : 0;
    store(part, exponential(load(part)));
    for (int64_t j = 0; j < LANES && i + j < count; j++) total += to[i + j] = part[j];
  }
  for (int64_t i = 0; i < count; i++) to[i] /= total;
}

/* Places of the largest numbers, of equal ones the lower first; those that `taken` says are left out, and taken. */
static void best_of(const float *x, int64_t count, int64_t wanted, char *taken, int32_t *places) {
  for (int64_t k = 0; k < wanted; k++) {
    int64_t best = -1;
    for (int64_t i = 0; i < count; i++)
      if (!taken[i] && (best < 0 || x[i] > x[best])) best = i;
    taken[best] = 1;
    places[k] = (int32_t)best;
  }
}

/* Marks the experts of groups that are not kept. */
static void leave_out(const float *rank, int64_t count, int64_t groups, int64_t kept, float *totals, char *taken,
                      int32_t *places) {
  const int64_t each = count / groups;
  for (int64_t g = 0; g < groups; g++) {
    memset(taken, 0, (size_t)each);
    best_of(rank + g * each, each, 2, taken, places);
    totals[g] = rank[g * each + places[0]] + rank[g * each + places[1]];
  }
  memset(taken, 0, (size_t)count);
  best_of(totals, groups, kept, taken, places);
  memset(taken, 1, (size_t)count);
  for (int64_t k = 0; k < kept; k++) memset(taken + places[k] * each, 0, (size_t)each);
}

void moe_router_scratch(const call *c, int threads, int64_t *own, int64_t *shared) {
  *own = c->size[COUNT] * 17, *shared = 0; /* scores, what is compared, sums of groups, places, and what is taken */
  (void)threads;
}

void moe_router(const call *c, const worker *self) {
  const int64_t count = c->size[COUNT], top_k = c->size[TOP_K], groups = c->size[GROUPS], score = c->size[SCORE];
  float *scores = (float *)self->own, *rank = scores + count, *totals = rank + count;
  int32_t *places = (int32_t *)(totals + count);
  char *taken = (char *)(places + count);
  for (int64_t t = c->size[TOKENS] * self->index / self->count; t < c->size[TOKENS] * (self->index + 1) / self->count;
       t++) {
    int32_t *experts = (int32_t *)c->at[EXPERTS] + t * top_k;
    float *weights = (float *)c->at[WEIGHTS] + t * top_k, total = 0;
    read_floats((const char *)c->at[LOGITS] + t * c->size[STRIDE], (int)c->size[TYPE], count, rank);
    if (score == SOFTMAX) {
      softmax_of(rank, count, scores);
    } else {
      memcpy(scores, rank, (size_t)count * 4);
      if (score == SIGMOID)
        for (int64_t i = 0; i < count; i++) {
          const float small = exponent(-fabsf(rank[i]));
          scores[i] = (rank[i] < 0 ? small : 1) / (1 + small);
        }
    }
    if (c->at[BIAS] || groups > 1) memcpy(rank, scores, (size_t)count * 4); /* else scores rise with the logits */
    for (int64_t i = 0; i < count; i++) {
      if (c->at[BIAS]) rank[i] += read_float(c->at[BIAS], (int)c->size[BIAS_TYPE], i);
      if (rank[i] != rank[i]) rank[i] = -INFINITY;
    }
    memset(taken, 0, (size_t)count);
    if (groups > 1) leave_out(rank, count, groups, c->size[KEPT], totals, taken, places);
    best_of(rank, count, top_k, taken, experts);
    for (int64_t k = 0; k < top_k; k++) weights[k] = scores[experts[k]];
    if (score == SOFTMAX_OF_CHOSEN) softmax_of(weights, top_k, weights);
    for (int64_t k = 0; k < top_k; k++) total += weights[k];
    const float times = (float)c->number[SCALING];
    for (int64_t k = 0; k < top_k; k++) {
      weights[k] = times * (c->size[NORMALIZE] ? weights[k] / (total + LEAST_SUM) : weights[k]);
      if (c->at[SCALE]) weights[k] *= read_float(c->at[SCALE], (int)c->size[SCALE_TYPE], experts[k]);
    }
  }
}
