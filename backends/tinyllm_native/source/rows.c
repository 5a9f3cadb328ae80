/* Ops on rows. */
#include "rows.h"

#include "ops.h"

int64_t work_on_rows(const call *c) { return c->size[ROWS] * c->size[COLUMNS]; }

/* Where a row is: of each `together`, which are neighbours, the first is `stride` bytes after that of those before. */
INLINE char *row_at(const void *from, int64_t r, int64_t stride, int64_t together, int64_t bytes) {
  return (char *)from + r / together * stride + r % together * bytes;
}

void rms_norm(const call *c, const worker *self) {
  enum { X, WEIGHT, Y };
  enum { X_STRIDE = 2, Y_STRIDE, TYPE, TOGETHER };
  enum { EPS, OFFSET };
  const int type = (int)c->size[TYPE];
  const int64_t columns = c->size[COLUMNS], together = c->size[TOGETHER];
  const int64_t bytes = columns * (type == OF_FLOAT32 ? 4 : 2);
  const char *weight = c->at[WEIGHT];
  MY_ROWS(r) {
    const char *x = row_at(c->at[X], r, c->size[X_STRIDE], together, bytes);
    char *to = row_at(c->at[Y], r, c->size[Y_STRIDE], together, bytes);
    floats squares = zeros();
    COLUMNS_OF(columns) {
      floats part = GET(x, type);
      squares = multiply_add(part, part, squares);
    }
    const double mean = (double)sum(squares) / (double)columns;
    const float root = (float)sqrt(mean + c->number[EPS]);
    COLUMNS_OF(columns) {
      floats factor = add(GET(weight, type), all((float)c->number[OFFSET]));
      PUT(to, type, multiply(divide(GET(x, type), all(root)), factor));
    }
  }
}

/* A part less its mean, and 0 in the lanes that are none of the row's. */
INLINE floats less_mean(floats part, int64_t left, float mean) {
  float numbers[LANES] = {0};
  part = subtract(part, all(mean));
  if (left >= LANES) return part;
  float these[LANES];
  store(these, part);
  memcpy(numbers, these, (size_t)left * sizeof(float));
  return load(numbers);
}

void layer_norm(const call *c, const worker *self) {
  enum { X, WEIGHT, BIAS, Y };
  enum { X_STRIDE = 2, Y_STRIDE, TYPE, TOGETHER };
  enum { EPS };
  const int type = (int)c->size[TYPE];
  const int64_t columns = c->size[COLUMNS], together = c->size[TOGETHER];
  const int64_t bytes = columns * (type == OF_FLOAT32 ? 4 : 2);
  const char *weight = c->at[WEIGHT], *bias = c->at[BIAS];
  MY_ROWS(r) {
    const char *x = row_at(c->at[X], r, c->size[X_STRIDE], together, bytes);
    char *to = row_at(c->at[Y], r, c->size[Y_STRIDE], together, bytes);
    floats numbers = zeros(), squares = zeros();
    COLUMNS_OF(columns) numbers = add(numbers, GET(x, type));
    const float mean = (float)((double)sum(numbers) / (double)columns);
    COLUMNS_OF(columns) {
      floats part = less_mean(GET(x, type), left, mean);
      squares = multiply_add(part, part, squares);
    }
    const float root = (float)sqrt((double)sum(squares) / (double)columns + c->number[EPS]);
    COLUMNS_OF(columns) {
      floats y = multiply(divide(subtract(GET(x, type), all(mean)), all(root)), GET(weight, type));
      if (bias) y = add(y, GET(bias, type));
      PUT(to, type, y);
    }
  }
}

void softmax(const call *c, const worker *self) {
  enum { X, Y };
  enum { X_STRIDE = 2, Y_STRIDE, TYPE };
  const int type = (int)c->size[TYPE];
  const int64_t columns = c->size[COLUMNS];
  MY_ROWS(r) {
    const char *x = (const char *)c->at[X] + r * c->size[X_STRIDE];
    char *to = (char *)c->at[Y] + r * c->size[Y_STRIDE];
    float most = -INFINITY, total = 0;
    for (int64_t i = 0; i < columns; i++) {
      const float number = read_float(x, type, i);
      most = number > most || number != number ? number : most;
    }
    floats sums = zeros();
    COLUMNS_OF(columns) {
      floats part = exponential(subtract(GET(x, type), all(most)));
      if (left < LANES) {
        float numbers[LANES];
        store(numbers, part);
        for (int64_t j = 0; j < left; j++) total += numbers[j];
      } else {
        sums = add(sums, part);
      }
    }
    total += sum(sums);
    COLUMNS_OF(columns) { PUT(to, type, divide(exponential(subtract(GET(x, type), all(most))), all(total))); }
  }
}

/* Pairs of numbers turned: `size[PAIRS]` of each head, the numbers after them kept. */
void rope_rotate(const call *c, const worker *self) {
  enum { X, COS, SIN, Y };
  enum { X_STRIDE = 2, Y_STRIDE, TYPE, HEADS, DIM, PAIRS, TRADITIONAL, ANGLE_STRIDE };
  const int type = (int)c->size[TYPE];
  const int64_t dim = c->size[DIM], pairs = c->size[PAIRS];
  const int64_t apart = c->size[TRADITIONAL] ? 1 : pairs, step = c->size[TRADITIONAL] ? 2 : 1;
  MY_ROWS(r) {
    const float *cosine = (const float *)((const char *)c->at[COS] + r * c->size[ANGLE_STRIDE]);
    const float *sine = (const float *)((const char *)c->at[SIN] + r * c->size[ANGLE_STRIDE]);
    for (int64_t h = 0; h < c->size[HEADS]; h++) {
      const int size = type == OF_FLOAT32 ? 4 : 2;
      const char *x = (const char *)c->at[X] + r * c->size[X_STRIDE] + h * dim * size;
      char *to = (char *)c->at[Y] + r * c->size[Y_STRIDE] + h * dim * size;
      int64_t i = 0;
      if (step == 1)
        for (; i + LANES <= pairs; i += LANES) {
          floats a = floats_at(x, type, i), b = floats_at(x, type, i + pairs);
          floats turn = load(cosine + i), lift = load(sine + i);
          put_floats(to, type, i, subtract(multiply(a, turn), multiply(b, lift)));
          put_floats(to, type, i + pairs, add(multiply(b, turn), multiply(a, lift)));
        }
      for (; i < pairs; i++) {
        const float a = read_float(x, type, i * step), b = read_float(x, type, i * step + apart);
        const float first = a * cosine[i] - b * sine[i], second = b * cosine[i] + a * sine[i];
        write_floats(to, type, i * step, 1, &first);
        write_floats(to, type, i * step + apart, 1, &second);
      }
      memcpy(to + 2 * pairs * size, x + 2 * pairs * size, (size_t)((dim - 2 * pairs) * size));
    }
  }
}

/* Cosines and sines of positions times inverse frequencies, times a factor. Angles are float64, so that large ones are
   right. Where the lengths of sequences are given, rows of those longer than LIMIT have the frequencies OTHERS and the
   factor OTHER_FACTOR; or, where GROWTH is not 0, the frequencies times the powers OTHERS of what grows with the
   length. The factors grow by LOG_SCALE times the logarithm of 1 more than the whole PERIODs before the position. */
void rope_angles(const call *c, const worker *self) {
  enum { POSITIONS, FREQUENCIES, COS, SIN, LENGTHS, OTHERS };
  enum { LIMIT = 2, PERIOD };
  enum { FACTOR, OTHER_FACTOR, GROWTH, LOG_SCALE };
  const int64_t pairs = c->size[COLUMNS];
  const double *frequencies = (const double *)c->at[FREQUENCIES], *others = (const double *)c->at[OTHERS];
  const int32_t *lengths = (const int32_t *)c->at[LENGTHS];
  const double growth = c->number[GROWTH];
  MY_ROWS(r) {
    const int64_t place = ((const int32_t *)c->at[POSITIONS])[r];
    const double position = (double)place, periods = place < 0 ? 0 : (double)(place / c->size[PERIOD]);
    const int is_long = lengths && lengths[r] > c->size[LIMIT];
    const double factor = c->number[is_long ? OTHER_FACTOR : FACTOR] * (1 + c->number[LOG_SCALE] * log(1 + periods));
    const double grown = is_long ? ((double)lengths[r] / (double)c->size[LIMIT] - 1) * growth + 1 : 1;
    for (int64_t i = 0; i < pairs; i++) {
      double frequency = frequencies[i];
      if (is_long) frequency = growth != 0 ? frequency * pow(grown, others[i]) : others[i];
      const double angle = position * frequency;
      ((float *)c->at[COS])[r * pairs + i] = (float)(cos(angle) * factor);
      ((float *)c->at[SIN])[r * pairs + i] = (float)(sin(angle) * factor);
    }
  }
}

/* Copy numbers, rounded where the dtypes differ. */
static void convert(const char *from, int type, char *to, int type_of_pages, int64_t count) {
  if (type == type_of_pages) {
    memcpy(to, from, (size_t)(count * (type == OF_FLOAT32 ? 4 : 2)));
    return;
  }
  for (int64_t i = 0; i < count; i += LANES) {
    float numbers[LANES];
    const int64_t some = count - i < LANES ? count - i : LANES;
    read_floats(from + i * (type == OF_FLOAT32 ? 4 : 2), type, some, numbers);
    write_floats(to, type_of_pages, i, some, numbers);
  }
}

/* Rows of numbers written into their slots of pages. */
void kv_append(const call *c, const worker *self) {
  enum { K_PAGES, V_PAGES, K, V, SLOTS };
  enum { HEADS = 2, PAGE, DIM, V_DIM, K_STRIDE, V_STRIDE, TYPE, PAGE_TYPE, K_PAGE_STRIDE, K_HEAD_STRIDE, K_TOKEN_STRIDE,
         V_PAGE_STRIDE, V_HEAD_STRIDE, V_TOKEN_STRIDE };
  const int type = (int)c->size[TYPE], type_of_pages = (int)c->size[PAGE_TYPE];
  const int64_t dim = c->size[DIM], value_dim = c->size[V_DIM], bytes = type == OF_FLOAT32 ? 4 : 2;
  MY_ROWS(r) {
    const int64_t slot = ((const int32_t *)c->at[SLOTS])[r];
    const int64_t page = slot / c->size[PAGE], place = slot % c->size[PAGE];
    for (int64_t h = 0; h < c->size[HEADS]; h++) {
      char *k = (char *)c->at[K_PAGES] + page * c->size[K_PAGE_STRIDE] + h * c->size[K_HEAD_STRIDE];
      char *v = (char *)c->at[V_PAGES] + page * c->size[V_PAGE_STRIDE] + h * c->size[V_HEAD_STRIDE];
      convert((const char *)c->at[K] + r * c->size[K_STRIDE] + h * dim * bytes, type,
              k + place * c->size[K_TOKEN_STRIDE], type_of_pages, dim);
      convert((const char *)c->at[V] + r * c->size[V_STRIDE] + h * value_dim * bytes, type,
              v + place * c->size[V_TOKEN_STRIDE], type_of_pages, value_dim);
    }
  }
}
