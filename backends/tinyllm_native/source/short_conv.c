/* short_conv: a causal convolution of each channel. Lanes are channels. */
#include "ops.h"
#include "recurrent.h"

enum { X, STATE, WEIGHT, Q_START, KV_LEN, STATE_ROWS, BIAS, Y };
enum { WIDTH = 2, SEQUENCES, X_STRIDE, Y_STRIDE, STATE_STRIDE, TYPE, STATE_TYPE, WITH_SILU };

void short_conv_scratch(const call *c, int threads, int64_t *own, int64_t *shared) {
  (void)threads, (void)shared;
  *own = 2 * c->size[WIDTH] * LANES * 4;
}

/* `left` channels from `i` on, of all sequences. The last inputs of a channel are neighbours in the state: they are
   turned on the way in and out. */
static void convolve(const call *c, int64_t i, int64_t left, float *factors, float *before) {
  const int type = (int)c->size[TYPE], state_type = (int)c->size[STATE_TYPE];
  const int64_t width = c->size[WIDTH], kept = width - 1;
  for (int64_t lane = 0; lane < LANES; lane++)
    for (int64_t w = 0; w < width; w++)
      factors[w * LANES + lane] = lane < left ? read_float(c->at[WEIGHT], type, (i + lane) * width + w) : 0;
  const floats bias = c->at[BIAS] ? GET(c->at[BIAS], type) : zeros();
  for (int64_t s = 0; s < c->size[SEQUENCES]; s++) {
    const sequence of = sequence_of(c->at[Q_START], c->at[KV_LEN], c->at[STATE_ROWS], s);
    if (!of.count) continue;
    char *row = (char *)c->at[STATE] + of.row * c->size[STATE_STRIDE] + i * kept * bytes_of(state_type);
    const char *x = (const char *)c->at[X] + of.first * c->size[X_STRIDE];
    memset(before, 0, (size_t)(kept * LANES) * 4);
    for (int64_t lane = 0; lane < left && !of.begins; lane++)
      for (int64_t w = 0; w < kept; w++) before[w * LANES + lane] = read_float(row, state_type, lane * kept + w);
    for (int64_t t = 0; t < of.count; t++) {
      floats y = bias;
      for (int64_t w = 0; w < width; w++) {
        const int64_t seen = t - kept + w;
        const floats input = seen < 0 ? load(before + (seen + kept) * LANES) : GET(x + seen * c->size[X_STRIDE], type);
        y = multiply_add(input, load(factors + w * LANES), y);
      }
      if (c->size[WITH_SILU]) y = divide(y, add(all(1), exponential(subtract(zeros(), y))));
      PUT((char *)c->at[Y] + (of.first + t) * c->size[Y_STRIDE], type, y);
    }
    for (int64_t w = 0; w < kept; w++) {
      const int64_t seen = of.count - kept + w;
      float last[LANES];
      store(last, seen < 0 ? load(before + (seen + kept) * LANES) : GET(x + seen * c->size[X_STRIDE], type));
      for (int64_t lane = 0; lane < left; lane++) write_floats(row, state_type, lane * kept + w, 1, last + lane);
    }
  }
}

/* Threads have channels of their own. */
void short_conv(const call *c, const worker *self) {
  const int64_t channels = c->size[COLUMNS], vectors = (channels + LANES - 1) / LANES;
  float *factors = (float *)self->own, *before = factors + c->size[WIDTH] * LANES;
  const int64_t from = vectors * self->index / self->count * LANES;
  int64_t to = vectors * (self->index + 1) / self->count * LANES;
  if (to > channels) to = channels;
  COLUMNS_FROM(from, to) convolve(c, i, left, factors, before);
}
