/* Vectors of 16 lanes, whatever the processor's registers hold: one of 64 bytes, two of 32 or four of 16.

   Kernels are written once on these types. Lanes are rows of a weight, columns of an output or neighbouring elements,
   so that sums run down a lane in the same order at every level. */
#ifndef TINYLLM_VECTOR_H
#define TINYLLM_VECTOR_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(TINYLLM_LEVEL_AVX2) || defined(TINYLLM_LEVEL_AVX512) || defined(TINYLLM_LEVEL_AVX512VNNI)
#include <immintrin.h>
#elif defined(TINYLLM_LEVEL_NEON)
#include <arm_neon.h>
#endif

#define LANES 16
#if defined(TINYLLM_LEVEL_AVX512) || defined(TINYLLM_LEVEL_AVX512VNNI)
#define TINYLLM_512
#define REGISTER_BYTES 64
#elif defined(TINYLLM_LEVEL_AVX2)
#define REGISTER_BYTES 32
#else
#define REGISTER_BYTES 16
#endif
#define REGISTERS (64 / REGISTER_BYTES)
#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

typedef float float_register __attribute__((vector_size(REGISTER_BYTES)));
typedef int32_t int_register __attribute__((vector_size(REGISTER_BYTES)));
typedef uint8_t byte_register __attribute__((vector_size(REGISTER_BYTES)));
typedef uint16_t short_register __attribute__((vector_size(REGISTER_BYTES)));
typedef struct { float_register r[REGISTERS]; } floats;  /* 16 of 32 bits */
typedef struct { int_register r[REGISTERS]; } ints;      /* 16 of 32 bits */
typedef struct { byte_register r[REGISTERS]; } bytes;    /* 64, of which lane i has numbers 4 i to 4 i + 3 */

#define EACH for (int i_ = 0; i_ < REGISTERS; i_++)

/* Register by register: compilers copy a structure of several by way of the stack. */
#define IN(from) memcpy(&x.r[i_], (const char *)(from) + i_ * REGISTER_BYTES, REGISTER_BYTES)
#define OUT(to) memcpy((char *)(to) + i_ * REGISTER_BYTES, &x.r[i_], REGISTER_BYTES)
INLINE floats load(const float *from) { floats x; UNROLL EACH IN(from); return x; }
INLINE void store(float *to, floats x) { UNROLL EACH OUT(to); }
INLINE ints load_ints(const int32_t *from) { ints x; UNROLL EACH IN(from); return x; }
INLINE void store_ints(int32_t *to, ints x) { UNROLL EACH OUT(to); }
INLINE bytes load_bytes(const void *from) { bytes x; UNROLL EACH IN(from); return x; }
INLINE void store_bytes(void *to, bytes x) { UNROLL EACH OUT(to); }
#undef IN
#undef OUT
INLINE floats all(float number) { floats x; UNROLL EACH x.r[i_] = number - (float_register){0}; return x; }
INLINE ints all_ints(int32_t number) { ints x; UNROLL EACH x.r[i_] = number - (int_register){0}; return x; }
INLINE bytes all_bytes(uint8_t number) { bytes x; UNROLL EACH x.r[i_] = number - (byte_register){0}; return x; }
INLINE floats zeros(void) { floats x; UNROLL EACH x.r[i_] = (float_register){0}; return x; }
INLINE floats add(floats a, floats b) { UNROLL EACH a.r[i_] += b.r[i_]; return a; }
INLINE floats subtract(floats a, floats b) { UNROLL EACH a.r[i_] -= b.r[i_]; return a; }
INLINE floats multiply(floats a, floats b) { UNROLL EACH a.r[i_] *= b.r[i_]; return a; }
INLINE floats divide(floats a, floats b) { UNROLL EACH a.r[i_] /= b.r[i_]; return a; }
INLINE floats multiply_add(floats a, floats b, floats c) {
  UNROLL EACH c.r[i_] = a.r[i_] * b.r[i_] + c.r[i_];
  return c;
}
INLINE floats to_floats(ints a) {
  floats x;
  UNROLL EACH x.r[i_] = __builtin_convertvector(a.r[i_], float_register);
  return x;
}
INLINE ints add_ints(ints a, ints b) { UNROLL EACH a.r[i_] += b.r[i_]; return a; }
INLINE ints shift_left(ints a, int bits) { UNROLL EACH a.r[i_] = a.r[i_] << bits; return a; }
INLINE ints as_ints(floats a) { ints x; UNROLL EACH x.r[i_] = (int_register)a.r[i_]; return x; }
INLINE floats as_floats(ints a) { floats x; UNROLL EACH x.r[i_] = (float_register)a.r[i_]; return x; }
INLINE bytes low_bits(bytes a, int bits) {
  UNROLL EACH a.r[i_] &= (uint8_t)((1 << bits) - 1);
  return a;
}
/* Each byte shifted right; what comes in from the neighbouring byte stays above `8 - bits` and is to be masked. */
INLINE bytes shift_right(bytes a, int bits) {
  UNROLL EACH a.r[i_] = (byte_register)((short_register)a.r[i_] >> bits);
  return a;
}
INLINE bytes shift_bytes_left(bytes a, int bits) { /* what would leave its byte must be 0 */
  UNROLL EACH a.r[i_] = (byte_register)((short_register)a.r[i_] << bits);
  return a;
}
INLINE bytes either(bytes a, bytes b) { UNROLL EACH a.r[i_] |= b.r[i_]; return a; }

/* Of 16-bit numbers in memory. */
INLINE floats load_bfloat16(const uint16_t *from) {
  floats x;
#if defined(TINYLLM_512)
  __m512i wide = _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)from)), 16);
  memcpy(&x, &wide, sizeof x);
#elif defined(TINYLLM_LEVEL_AVX2)
  for (int i = 0; i < 2; i++) {
    __m256i wide = _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)(from + 8 * i))), 16);
    memcpy(&x.r[i], &wide, 32);
  }
#else
  uint32_t wide[LANES];
  for (int i = 0; i < LANES; i++) wide[i] = (uint32_t)from[i] << 16;
  memcpy(&x, wide, sizeof x);
#endif
  return x;
}

/* One float16 number. */
INLINE float float16(uint16_t half) {
#if defined(TINYLLM_LEVEL_NEON)
  __fp16 number;
  memcpy(&number, &half, 2);
  return number;
#elif defined(TINYLLM_512) || defined(TINYLLM_LEVEL_AVX2)
  return _cvtsh_ss(half);
#else
  /* The bits of exponent and significand as those of a float32 are 2^112 times too small; infinity and NaN keep all
     bits of their exponent. */
  uint32_t bits = (uint32_t)(half & 0x7fff) << 13, sign = (uint32_t)(half & 0x8000) << 16;
  float number;
  if ((half & 0x7c00) == 0x7c00) {
    bits |= 0x7f800000 | sign;
    memcpy(&number, &bits, 4);
    return number;
  }
  memcpy(&number, &bits, 4);
  number *= 0x1p112f;
  memcpy(&bits, &number, 4);
  bits |= sign;
  memcpy(&number, &bits, 4);
  return number;
#endif
}
INLINE floats load_float16(const uint16_t *from) {
  floats x;
#if defined(TINYLLM_512)
  __m512 wide = _mm512_cvtph_ps(_mm256_loadu_si256((const void *)from));
  memcpy(&x, &wide, sizeof x);
#elif defined(TINYLLM_LEVEL_AVX2)
  for (int i = 0; i < 2; i++) {
    __m256 wide = _mm256_cvtph_ps(_mm_loadu_si128((const void *)(from + 8 * i)));
    memcpy(&x.r[i], &wide, 32);
  }
#else
  float wide[LANES];
  for (int i = 0; i < LANES; i++) wide[i] = float16(from[i]);
  memcpy(&x, wide, sizeof x);
#endif
  return x;
}
/* 16 bytes as floats; `extend` names what widens them in the instruction sets that have it. */
#if defined(TINYLLM_512)
#define BYTES_AS_FLOATS(name, byte, extend)                                                                  \
  INLINE floats name(const byte *from) {                                                                     \
    floats x;                                                                                                \
    __m512 wide = _mm512_cvtepi32_ps(_mm512_cvt##extend##_epi32(_mm_loadu_si128((const void *)from)));       \
    memcpy(&x, &wide, sizeof x);                                                                             \
    return x;                                                                                                \
  }
#elif defined(TINYLLM_LEVEL_AVX2)
#define BYTES_AS_FLOATS(name, byte, extend)                                                                  \
  INLINE floats name(const byte *from) {                                                                     \
    floats x;                                                                                                \
    for (int i = 0; i < 2; i++) {                                                                            \
      __m128i eight = _mm_loadl_epi64((const void *)(from + 8 * i));                                         \
      __m256 wide = _mm256_cvtepi32_ps(_mm256_cvt##extend##_epi32(eight));                                   \
      memcpy(&x.r[i], &wide, 32);                                                                            \
    }                                                                                                        \
    return x;                                                                                                \
  }
#else
#define BYTES_AS_FLOATS(name, byte, extend)                                                                  \
  INLINE floats name(const byte *from) {                                                                     \
    float wide[LANES];                                                                                       \
    for (int i = 0; i < LANES; i++) wide[i] = from[i];                                                       \
    return load(wide);                                                                                       \
  }
#endif
BYTES_AS_FLOATS(load_signed_bytes, int8_t, epi8)
BYTES_AS_FLOATS(load_unsigned_bytes, uint8_t, epu8)

INLINE uint16_t to_float16(float number) {
#if defined(TINYLLM_LEVEL_NEON)
  __fp16 half = (__fp16)number;
  uint16_t bits;
  memcpy(&bits, &half, 2);
  return bits;
#elif defined(TINYLLM_512) || defined(TINYLLM_LEVEL_AVX2)
  return (uint16_t)_cvtss_sh(number, 0);
#else
  uint32_t bits;
  memcpy(&bits, &number, 4);
  uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
  bits &= 0x7fffffff;
  if (bits > 0x7f800000) return (uint16_t)(sign | 0x7e00 | (bits >> 13 & 0x3ff));
  if (bits >= 0x477ff000) return (uint16_t)(sign | 0x7c00);
  if (bits < 0x38800000) { /* subnormal: adding 0.5 puts the last bit kept at the end of the significand */
    float size;
    memcpy(&size, &bits, 4);
    size += 0.5f;
    memcpy(&bits, &size, 4);
    return (uint16_t)(sign | (bits - 0x3f000000));
  }
  bits += 0xfff + (bits >> 13 & 1);
  return (uint16_t)(sign | (bits - 0x38000000) >> 13);
#endif
}
INLINE void store_float16(uint16_t *to, floats x) {
#if defined(TINYLLM_512)
  __m512 wide;
  memcpy(&wide, &x, sizeof x);
  _mm256_storeu_si256((void *)to, _mm512_cvtps_ph(wide, 0));
#elif defined(TINYLLM_LEVEL_AVX2)
  for (int i = 0; i < 2; i++) _mm_storeu_si128((void *)(to + 8 * i), _mm256_cvtps_ph((__m256)x.r[i], 0));
#else
  float wide[LANES];
  store(wide, x);
  for (int i = 0; i < LANES; i++) to[i] = to_float16(wide[i]);
#endif
}
INLINE uint16_t to_bfloat16(float number) {
  uint32_t bits;
  memcpy(&bits, &number, 4);
  if ((bits & 0x7fffffff) > 0x7f800000) return (uint16_t)(bits >> 16 | 0x40);
  return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
INLINE float bfloat16(uint16_t half) {
  uint32_t bits = (uint32_t)half << 16;
  float number;
  memcpy(&number, &bits, 4);
  return number;
}

INLINE floats choose(ints is, floats a, floats b) {
  UNROLL EACH a.r[i_] = (float_register)(((int_register)a.r[i_] & is.r[i_]) | ((int_register)b.r[i_] & ~is.r[i_]));
  return a;
}

/* The larger of two; b where either is NaN. */
INLINE floats larger(floats a, floats b) {
#if defined(TINYLLM_512)
  __m512 x, y;
  memcpy(&x, &a, 64), memcpy(&y, &b, 64);
  x = _mm512_max_ps(x, y);
  memcpy(&a, &x, 64);
#else
  UNROLL EACH {
    int_register is = a.r[i_] > b.r[i_];
    a.r[i_] = (float_register)(((int_register)a.r[i_] & is) | ((int_register)b.r[i_] & ~is));
  }
#endif
  return a;
}
INLINE floats smaller(floats a, floats b) {
#if defined(TINYLLM_512)
  __m512 x, y;
  memcpy(&x, &a, 64), memcpy(&y, &b, 64);
  x = _mm512_min_ps(x, y);
  memcpy(&a, &x, 64);
#else
  UNROLL EACH {
    int_register is = a.r[i_] < b.r[i_];
    a.r[i_] = (float_register)(((int_register)a.r[i_] & is) | ((int_register)b.r[i_] & ~is));
  }
#endif
  return a;
}
INLINE floats size_of(floats a) {
  UNROLL EACH a.r[i_] = (float_register)((int_register)a.r[i_] & 0x7fffffff);
  return a;
}
INLINE float sum(floats a) {
#if defined(TINYLLM_512)
  __m512 y;
  memcpy(&y, &a, 64);
  return _mm512_reduce_add_ps(y);
#else
  float x[LANES];
  store(x, a);
  for (int step = LANES / 2; step; step /= 2)
    for (int i = 0; i < step; i++) x[i] += x[i + step];
  return x[0];
#endif
}
/* The largest of 16 numbers, none of which is NaN. */
INLINE float largest(floats a) {
#if defined(TINYLLM_512)
  __m512 y;
  memcpy(&y, &a, 64);
  return _mm512_reduce_max_ps(y);
#else
  float x[LANES];
  store(x, a);
  for (int step = LANES / 2; step; step /= 2)
    for (int i = 0; i < step; i++) x[i] = x[i + step] > x[i] ? x[i + step] : x[i];
  return x[0];
#endif
}
INLINE int32_t sum_of_ints(ints a) { /* modulo 2^32 */
#if defined(TINYLLM_512)
  __m512i y;
  memcpy(&y, &a, 64);
  return _mm512_reduce_add_epi32(y);
#else
  int32_t x[LANES];
  uint32_t all_of_them = 0;
  store_ints(x, a);
  for (int i = 0; i < LANES; i++) all_of_them += (uint32_t)x[i];
  return (int32_t)all_of_them;
#endif
}

/* Each lane of `sums` plus the products of its 4 unsigned bytes with the 4 signed ones of `four`, exactly, modulo 2^32.

   Without VNNI bytes above 127 times 4 could leave the 16 bits that pairs are summed in: those levels do not multiply
   more than 7 bits this way. */
#if !defined(TINYLLM_LEVEL_PORTABLE)
#define INTEGERS /* products of a row in integers are faster than those in floats */
#if defined(TINYLLM_LEVEL_AVX512VNNI) || defined(TINYLLM_LEVEL_NEON)
#define MANY_ROWS /* and those of many rows */
#endif
INLINE ints dot4(ints sums, bytes a, int32_t four) {
#if defined(TINYLLM_LEVEL_AVX512VNNI)
  __m512i s, x;
  memcpy(&s, &sums, 64), memcpy(&x, &a, 64);
  s = _mm512_dpbusd_epi32(s, x, _mm512_set1_epi32(four));
  memcpy(&sums, &s, 64);
#elif defined(TINYLLM_LEVEL_AVX512)
  __m512i s, x;
  memcpy(&s, &sums, 64), memcpy(&x, &a, 64);
  s = _mm512_add_epi32(s, _mm512_madd_epi16(_mm512_maddubs_epi16(x, _mm512_set1_epi32(four)), _mm512_set1_epi16(1)));
  memcpy(&sums, &s, 64);
#elif defined(TINYLLM_LEVEL_AVX2)
  for (int i = 0; i < 2; i++) {
    __m256i s, x;
    memcpy(&s, &sums.r[i], 32), memcpy(&x, &a.r[i], 32);
    s = _mm256_add_epi32(s, _mm256_madd_epi16(_mm256_maddubs_epi16(x, _mm256_set1_epi32(four)), _mm256_set1_epi16(1)));
    memcpy(&sums.r[i], &s, 32);
  }
#elif defined(TINYLLM_LEVEL_NEON)
  int8x16_t y = vreinterpretq_s8_s32(vdupq_n_s32(four));
  for (int i = 0; i < 4; i++) {
    int32x4_t s;
    int8x16_t x;
    memcpy(&s, &sums.r[i], 16), memcpy(&x, &a.r[i], 16);
    s = vdotq_s32(s, x, y);
    memcpy(&sums.r[i], &s, 16);
  }
#endif
  return sums;
}
#endif
/* Unsigned bytes that a level multiplies exactly have at most so many bits. */
#if defined(TINYLLM_LEVEL_AVX512VNNI)
#define DOT_BITS 8
#else
#define DOT_BITS 7
#endif

/* Numbers of a table of 16 bytes at places 0 to 15. */
INLINE bytes look_up(bytes places, const uint8_t table[16]) {
#if defined(TINYLLM_512)
  __m512i x, t = _mm512_broadcast_i32x4(_mm_loadu_si128((const void *)table));
  memcpy(&x, &places, 64);
  x = _mm512_shuffle_epi8(t, x);
  memcpy(&places, &x, 64);
#elif defined(TINYLLM_LEVEL_AVX2)
  __m256i t = _mm256_broadcastsi128_si256(_mm_loadu_si128((const void *)table));
  for (int i = 0; i < 2; i++) {
    __m256i x;
    memcpy(&x, &places.r[i], 32);
    x = _mm256_shuffle_epi8(t, x);
    memcpy(&places.r[i], &x, 32);
  }
#elif defined(TINYLLM_LEVEL_NEON)
  uint8x16_t t = vld1q_u8(table);
  for (int i = 0; i < 4; i++) {
    uint8x16_t x;
    memcpy(&x, &places.r[i], 16);
    x = vqtbl1q_u8(t, x);
    memcpy(&places.r[i], &x, 16);
  }
#else
  uint8_t x[64];
  memcpy(x, &places, 64);
  for (int i = 0; i < 64; i++) x[i] = table[x[i] & 15];
  memcpy(&places, x, 64);
#endif
  return places;
}

/* Numbers of a table of 16 floats at places 0 to 15. */
INLINE floats look_up_floats(ints places, const float table[16]) {
  floats x;
#if defined(TINYLLM_512)
  __m512i at;
  memcpy(&at, &places, 64);
  __m512 found = _mm512_permutexvar_ps(at, _mm512_loadu_ps(table));
  memcpy(&x, &found, 64);
#else
  int32_t at[LANES];
  float found[LANES];
  store_ints(at, places);
  for (int i = 0; i < LANES; i++) found[i] = table[at[i] & 15];
  x = load(found);
#endif
  return x;
}

/* e^x within an ulp or two: x = n ln 2 + r, and a polynomial of e^r on |r| <= ln 2 / 2 (Cody and Waite 1980). 0 below
   -104, infinity above 89, NaN of NaN. */
INLINE floats exponential(floats x) {
  floats kept = x;
  x = smaller(larger(x, all(-104.0f)), all(89.0f));
  const float magic = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer */
  floats shifted = multiply_add(x, all(1.44269504f), all(magic)), n = subtract(shifted, all(magic));
  floats r = multiply_add(n, all(-0.693359375f), x);
  r = multiply_add(n, all(2.12194440e-4f), r);
  floats p = all(1.9875691500e-4f);
  p = multiply_add(p, r, all(1.3981999507e-3f));
  p = multiply_add(p, r, all(8.3334519073e-3f));
  p = multiply_add(p, r, all(4.1665795894e-2f));
  p = multiply_add(p, r, all(1.6666665459e-1f));
  p = multiply_add(p, r, all(5.0000001201e-1f));
  p = multiply_add(multiply(p, r), r, add(r, all(1.0f)));
  /* 2^n in two steps, as 2^128 and what is below 2^-126 have no exponent of their own */
  ints whole = as_ints(shifted);
  ints half, other;
  UNROLL EACH {
    int_register number = whole.r[i_] - 0x4b400000;
    int_register first = number >> 1;
    half.r[i_] = (first + 127) << 23;
    other.r[i_] = (number - first + 127) << 23;
  }
  p = multiply(multiply(p, as_floats(half)), as_floats(other));
  UNROLL EACH { /* NaN stays */
    int_register is_number = kept.r[i_] == kept.r[i_];
    p.r[i_] = (float_register)(((int_register)p.r[i_] & is_number) | ((int_register)kept.r[i_] & ~is_number));
  }
  return p;
}

/* tanh, within a few ulps of its own size: a polynomial where 1 - 2 / (e^2x + 1) loses digits (Cephes, tanhf.c). */
INLINE floats hyperbolic_tangent(floats x) {
  floats size = size_of(x), square = multiply(x, x);
  floats p = all(-5.70498872745e-3f);
  p = multiply_add(p, square, all(2.06390887954e-2f));
  p = multiply_add(p, square, all(-5.37397155531e-2f));
  p = multiply_add(p, square, all(1.33314422036e-1f));
  p = multiply_add(p, square, all(-3.33332819422e-1f));
  p = multiply_add(multiply(p, square), x, x);
  floats far = exponential(add(size, size));
  far = subtract(all(1.0f), divide(all(2.0f), add(far, all(1.0f))));
  ints is_near;
  UNROLL EACH {
    far.r[i_] = (float_register)((int_register)far.r[i_] | ((int_register)x.r[i_] & (int32_t)0x80000000));
    is_near.r[i_] = size.r[i_] < 0.625f;
  }
  return choose(is_near, p, far);
}

#endif
