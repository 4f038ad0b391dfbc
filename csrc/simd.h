// One vector type per build: AVX-512 (16 lanes), AVX2 (8), and compiler vector extensions elsewhere (4: SSE4.2, NEON).
// Kernels are written against LANES and these functions only. min and max give their second operand when one is NaN.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)

constexpr int LANES = 16;
using Float = __m512;
using Int = __m512i;
using Mask = __mmask16;
static inline Float splat(float a) { return _mm512_set1_ps(a); }
static inline Int splat_int(int a) { return _mm512_set1_epi32(a); }
static inline Float load(const float *p) { return _mm512_loadu_ps(p); }
static inline Int load_int(const int *p) { return _mm512_loadu_si512(p); }
static inline void store(float *p, Float v) { _mm512_storeu_ps(p, v); }
static inline void store_where(float *p, Mask m, Float v) { _mm512_mask_storeu_ps(p, m, v); }
static inline void store_where(int *p, Mask m, Int v) { _mm512_mask_storeu_epi32(p, m, v); }
static inline Float fma(Float a, Float b, Float c) { return _mm512_fmadd_ps(a, b, c); }    // a b + c
static inline Float fnma(Float a, Float b, Float c) { return _mm512_fnmadd_ps(a, b, c); }  // c - a b
static inline Float min(Float a, Float b) { return _mm512_min_ps(a, b); }
static inline Float max(Float a, Float b) { return _mm512_max_ps(a, b); }
static inline Mask le(Float a, Float b) { return _mm512_cmp_ps_mask(a, b, _CMP_LE_OQ); }
static inline Mask gt(Float a, Float b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
static inline Mask equal(Int a, Int b) { return _mm512_cmpeq_epi32_mask(a, b); }
static inline Mask both(Mask a, Mask b) { return a & b; }
static inline bool any(Mask m) { return m != 0; }
static inline Float select(Mask m, Float a, Float b) { return _mm512_mask_mov_ps(b, m, a); }  // m ? a : b
static inline Float keep(Mask m, Float a) { return _mm512_maskz_mov_ps(m, a); }               // m ? a : 0
static inline Float minus_abs(Float a) {
  return _mm512_castsi512_ps(_mm512_or_si512(_mm512_castps_si512(a), _mm512_set1_epi32(INT32_MIN)));
}
static inline Float abs(Float a) {
  return _mm512_castsi512_ps(_mm512_andnot_si512(_mm512_set1_epi32(INT32_MIN), _mm512_castps_si512(a)));
}
static inline Float reciprocal(Float x) {  // 14 bits and one Newton step
  Float r = _mm512_rcp14_ps(x);
  return _mm512_mul_ps(r, _mm512_fnmadd_ps(x, r, splat(2.f)));
}
static inline Float sqrt(Float x) { return _mm512_sqrt_ps(x); }
static inline float sum(Float v) { return _mm512_reduce_add_ps(v); }
static inline Float round_exponent(Float t) {
  return _mm512_roundscale_ps(t, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
static inline Float scale_exponent(Float p, Float n) { return _mm512_scalef_ps(p, n); }

// The sums of LANES vectors, as one vector: a transposition that adds on its way.
static inline Float sum_each(const Float *a) {
  Float s1[8], s2[4];
  for (int i = 0; i < 8; i++)
    s1[i] = _mm512_add_ps(_mm512_unpacklo_ps(a[2 * i], a[2 * i + 1]), _mm512_unpackhi_ps(a[2 * i], a[2 * i + 1]));
  for (int i = 0; i < 4; i++) {
    __m512d c = _mm512_castps_pd(s1[2 * i]), d = _mm512_castps_pd(s1[2 * i + 1]);
    s2[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(c, d)), _mm512_castpd_ps(_mm512_unpackhi_pd(c, d)));
  }
  Float t0 = _mm512_add_ps(_mm512_shuffle_f32x4(s2[0], s2[1], 0x88), _mm512_shuffle_f32x4(s2[0], s2[1], 0xdd));
  Float t1 = _mm512_add_ps(_mm512_shuffle_f32x4(s2[2], s2[3], 0x88), _mm512_shuffle_f32x4(s2[2], s2[3], 0xdd));
  return _mm512_add_ps(_mm512_shuffle_f32x4(t0, t1, 0x88), _mm512_shuffle_f32x4(t0, t1, 0xdd));
}

// The LANES numbers that begin T places beyond those of `here`: a shift, where an unaligned load would cross cache lines.
template <int T> static inline Float beyond(const float *, Float before, Float here, Float after) {
  const __m512i a = _mm512_castps_si512(T < 0 ? before : here), b = _mm512_castps_si512(T < 0 ? here : after);
  return _mm512_castsi512_ps(_mm512_alignr_epi32(b, a, T & 15));
}
// Rows become columns.
static inline void transpose(Float *a) {
  Float b[16];
  for (int i = 0; i < 8; i++)
    b[2 * i] = _mm512_unpacklo_ps(a[2 * i], a[2 * i + 1]), b[2 * i + 1] = _mm512_unpackhi_ps(a[2 * i], a[2 * i + 1]);
  for (int i = 0; i < 4; i++)
    for (int k = 0; k < 2; k++) {
      const __m512d c = _mm512_castps_pd(b[4 * i + k]), d = _mm512_castps_pd(b[4 * i + 2 + k]);
      a[4 * i + 2 * k] = _mm512_castpd_ps(_mm512_unpacklo_pd(c, d));
      a[4 * i + 2 * k + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(c, d));
    }
  for (int k = 0; k < 4; k++) {
    const Float c0 = _mm512_shuffle_f32x4(a[k], a[4 + k], 0x88), c1 = _mm512_shuffle_f32x4(a[k], a[4 + k], 0xdd);
    const Float d0 = _mm512_shuffle_f32x4(a[8 + k], a[12 + k], 0x88), d1 = _mm512_shuffle_f32x4(a[8 + k], a[12 + k], 0xdd);
    b[k] = _mm512_shuffle_f32x4(c0, d0, 0x88), b[8 + k] = _mm512_shuffle_f32x4(c0, d0, 0xdd);
    b[4 + k] = _mm512_shuffle_f32x4(c1, d1, 0x88), b[12 + k] = _mm512_shuffle_f32x4(c1, d1, 0xdd);
  }
  for (int i = 0; i < 16; i++) a[i] = b[i];
}

#elif defined(__AVX2__) && defined(__FMA__)

constexpr int LANES = 8;
using Float = __m256;
using Int = __m256i;
struct Mask {
  __m256 bits;
};
static inline Float splat(float a) { return _mm256_set1_ps(a); }
static inline Int splat_int(int a) { return _mm256_set1_epi32(a); }
static inline Float load(const float *p) { return _mm256_loadu_ps(p); }
static inline Int load_int(const int *p) { return _mm256_loadu_si256((const __m256i *)p); }
static inline void store(float *p, Float v) { _mm256_storeu_ps(p, v); }
static inline void store_where(float *p, Mask m, Float v) {
  _mm256_storeu_ps(p, _mm256_blendv_ps(_mm256_loadu_ps(p), v, m.bits));
}
static inline void store_where(int *p, Mask m, Int v) {
  _mm256_storeu_si256((__m256i *)p, _mm256_blendv_epi8(load_int(p), v, _mm256_castps_si256(m.bits)));
}
static inline Float fma(Float a, Float b, Float c) { return _mm256_fmadd_ps(a, b, c); }
static inline Float fnma(Float a, Float b, Float c) { return _mm256_fnmadd_ps(a, b, c); }
static inline Float min(Float a, Float b) { return _mm256_min_ps(a, b); }
static inline Float max(Float a, Float b) { return _mm256_max_ps(a, b); }
static inline Mask le(Float a, Float b) { return {_mm256_cmp_ps(a, b, _CMP_LE_OQ)}; }
static inline Mask gt(Float a, Float b) { return {_mm256_cmp_ps(a, b, _CMP_GT_OQ)}; }
static inline Mask equal(Int a, Int b) { return {_mm256_castsi256_ps(_mm256_cmpeq_epi32(a, b))}; }
static inline Mask both(Mask a, Mask b) { return {_mm256_and_ps(a.bits, b.bits)}; }
static inline bool any(Mask m) { return _mm256_movemask_ps(m.bits) != 0; }
static inline Float select(Mask m, Float a, Float b) { return _mm256_blendv_ps(b, a, m.bits); }
static inline Float keep(Mask m, Float a) { return _mm256_and_ps(m.bits, a); }
static inline Float minus_abs(Float a) { return _mm256_or_ps(a, _mm256_set1_ps(-0.f)); }
static inline Float abs(Float a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.f), a); }
static inline Float reciprocal(Float x) {
  Float r = _mm256_rcp_ps(x);
  return _mm256_mul_ps(r, _mm256_fnmadd_ps(x, r, splat(2.f)));
}
static inline Float sqrt(Float x) { return _mm256_sqrt_ps(x); }
static inline float sum(Float v) {
  __m128 a = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  a = _mm_add_ps(a, _mm_movehl_ps(a, a));
  return _mm_cvtss_f32(_mm_add_ss(a, _mm_shuffle_ps(a, a, 1)));
}
static inline Float round_exponent(Float t) {
  return _mm256_round_ps(t, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
static inline Float scale_exponent(Float p, Float n) {
  __m256i e = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
  return _mm256_mul_ps(p, _mm256_castsi256_ps(e));
}
static inline Float sum_each(const Float *a) {
  Float s1[4], s2[2];
  for (int i = 0; i < 4; i++)
    s1[i] = _mm256_add_ps(_mm256_unpacklo_ps(a[2 * i], a[2 * i + 1]), _mm256_unpackhi_ps(a[2 * i], a[2 * i + 1]));
  for (int i = 0; i < 2; i++) {
    __m256d c = _mm256_castps_pd(s1[2 * i]), d = _mm256_castps_pd(s1[2 * i + 1]);
    s2[i] = _mm256_add_ps(_mm256_castpd_ps(_mm256_unpacklo_pd(c, d)), _mm256_castpd_ps(_mm256_unpackhi_pd(c, d)));
  }
  return _mm256_add_ps(_mm256_permute2f128_ps(s2[0], s2[1], 0x20), _mm256_permute2f128_ps(s2[0], s2[1], 0x31));
}

static inline void transpose(Float *a) {
  Float b[8];
  for (int i = 0; i < 4; i++)
    b[2 * i] = _mm256_unpacklo_ps(a[2 * i], a[2 * i + 1]), b[2 * i + 1] = _mm256_unpackhi_ps(a[2 * i], a[2 * i + 1]);
  for (int i = 0; i < 2; i++)
    for (int k = 0; k < 2; k++) {
      const __m256d c = _mm256_castps_pd(b[4 * i + k]), d = _mm256_castps_pd(b[4 * i + 2 + k]);
      a[4 * i + 2 * k] = _mm256_castpd_ps(_mm256_unpacklo_pd(c, d));
      a[4 * i + 2 * k + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(c, d));
    }
  for (int k = 0; k < 4; k++) b[k] = _mm256_permute2f128_ps(a[k], a[4 + k], 0x20), b[4 + k] = _mm256_permute2f128_ps(a[k], a[4 + k], 0x31);
  for (int i = 0; i < 8; i++) a[i] = b[i];
}

#else

constexpr int LANES = 4;
typedef float Float __attribute__((vector_size(16)));
typedef int Int __attribute__((vector_size(16)));
typedef float FloatAnywhere __attribute__((vector_size(16), aligned(4), may_alias));
typedef int IntAnywhere __attribute__((vector_size(16), aligned(4), may_alias));
using Mask = Int;
static inline Float splat(float a) { return Float{a, a, a, a}; }
static inline Int splat_int(int a) { return Int{a, a, a, a}; }
static inline Float load(const float *p) { return *(const FloatAnywhere *)p; }
static inline Int load_int(const int *p) { return *(const IntAnywhere *)p; }
static inline void store(float *p, Float v) { *(FloatAnywhere *)p = v; }
static inline Float select(Mask m, Float a, Float b) { return (Float)((m & (Int)a) | (~m & (Int)b)); }
static inline void store_where(float *p, Mask m, Float v) { store(p, select(m, v, load(p))); }
static inline void store_where(int *p, Mask m, Int v) { *(IntAnywhere *)p = (m & v) | (~m & load_int(p)); }
static inline Float fma(Float a, Float b, Float c) { return a * b + c; }
static inline Float fnma(Float a, Float b, Float c) { return c - a * b; }
static inline Mask le(Float a, Float b) { return a <= b; }
static inline Mask gt(Float a, Float b) { return a > b; }
static inline Mask equal(Int a, Int b) { return a == b; }
static inline Mask both(Mask a, Mask b) { return a & b; }
static inline Float keep(Mask m, Float a) { return (Float)((Int)a & m); }
static inline Float minus_abs(Float a) { return (Float)((Int)a | splat_int(INT32_MIN)); }
static inline Float abs(Float a) { return (Float)((Int)a & splat_int(INT32_MAX)); }
static inline Float reciprocal(Float x) { return splat(1.f) / x; }
static inline float sum(Float v) { return (v[0] + v[1]) + (v[2] + v[3]); }
#if defined(__SSE4_1__)
static inline Float min(Float a, Float b) { return _mm_min_ps(a, b); }
static inline Float max(Float a, Float b) { return _mm_max_ps(a, b); }
static inline bool any(Mask m) { return _mm_movemask_ps((Float)m) != 0; }
static inline Float sqrt(Float x) { return _mm_sqrt_ps(x); }
static inline Float sum_each(const Float *a) {
  __m128 r0 = a[0], r1 = a[1], r2 = a[2], r3 = a[3];
  _MM_TRANSPOSE4_PS(r0, r1, r2, r3);
  return (r0 + r1) + (r2 + r3);
}
#else
static inline Float min(Float a, Float b) { return select(a < b, a, b); }
static inline Float max(Float a, Float b) { return select(a > b, a, b); }
static inline bool any(Mask m) { return (m[0] | m[1] | m[2] | m[3]) != 0; }
static inline Float sqrt(Float x) { return Float{std::sqrt(x[0]), std::sqrt(x[1]), std::sqrt(x[2]), std::sqrt(x[3])}; }
static inline Float sum_each(const Float *a) { return Float{sum(a[0]), sum(a[1]), sum(a[2]), sum(a[3])}; }
#endif
static inline void transpose(Float *a) {
  for (int i = 0; i < 4; i++)
    for (int k = 0; k < i; k++) {
      const float other = a[i][k];
      a[i][k] = a[k][i];
      a[k][i] = other;
    }
}
constexpr float ROUND_MAGIC = 12582912.f;  // 1.5 x 2^23: adding it rounds to the nearest whole number
static inline Float round_exponent(Float t) { return (t + splat(ROUND_MAGIC)) - splat(ROUND_MAGIC); }
static inline Float scale_exponent(Float p, Float n) {
  Int bits = (Int)(n + splat(ROUND_MAGIC)) - splat_int(0x4B400000);
  return p * (Float)((bits + 127) << 23);
}

#endif

#if !defined(__AVX512F__)
template <int T> static inline Float beyond(const float *here, Float, Float, Float) { return load(here + T); }
#endif

// 2^t for t <= 0 (relative error 2.2e-7): a polynomial of degree 5 on [-1/2, 1/2], then the exponent.
static inline Float exp2(Float t) {
  t = max(t, splat(-126.f));
  Float n = round_exponent(t), f = t - n;
  Float p = fma(splat(1.326697039e-03f), f, splat(9.675459746e-03f));
  p = fma(p, f, splat(5.550742616e-02f));
  p = fma(p, f, splat(2.402212175e-01f));
  p = fma(p, f, splat(6.931469492e-01f));
  p = fma(p, f, splat(1.000000071e+00f));
  return scale_exponent(p, n);
}

// Largest whole number that is not above x, for |x| < 2^22.
static inline Float floor(Float x) {
  const Float r = round_exponent(x);
  return r - keep(gt(r, x), splat(1.f));
}

// Three vectors: LANES points at once.
struct Vec3 {
  Float x, y, z;
};
static inline Vec3 operator+(Vec3 a, Vec3 b) { return {a.x + b.x, a.y + b.y, a.z + b.z}; }
static inline Vec3 operator*(Vec3 a, Float s) { return {a.x * s, a.y * s, a.z * s}; }
static inline Float dot(Vec3 a, Vec3 b) { return a.x * b.x + a.y * b.y + a.z * b.z; }
static inline Vec3 cross(Vec3 a, Vec3 b) {
  return {a.y * b.z - a.z * b.y, a.z * b.x - a.x * b.z, a.x * b.y - a.y * b.x};
}

// LANES rows of a row-major [n, K] array as K vectors; lanes past `count` repeat the last row.
template <int K> static inline void load_rows(const float *p, int first, int count, Float *out) {
  alignas(64) float columns[K][LANES];
  for (int i = 0; i < LANES; i++) {
    const float *row = p + (size_t)(first + (i < count ? i : count - 1)) * K;
    for (int k = 0; k < K; k++) columns[k][i] = row[k];
  }
  for (int k = 0; k < K; k++) out[k] = load(columns[k]);
}
