// One vector vocabulary for three instruction sets: every operator's loop is written once on it.
// Included by one translation unit per instruction set, each in its own namespace HFX_ISA, so that
// no symbol compiled for a newer processor can be picked for an older one.
//
// VL   floats in a vector        vf   VL floats        vb   VL pairs of bf16 (2 VL numbers)
#pragma once
#include <immintrin.h>

#include <cstdint>
#include <cstring>

#define HFX_INLINE static inline __attribute__((always_inline))

namespace HFX_ISA {

HFX_INLINE float float_of(uint16_t bits) {
  const uint32_t word = uint32_t(bits) << 16;
  float value;
  memcpy(&value, &word, 4);
  return value;
}

// Round to nearest even; NaN stays NaN (the plain carry would turn some NaNs into infinity).
HFX_INLINE uint16_t bf16_of(float value) {
  uint32_t word;
  memcpy(&word, &value, 4);
  if ((word & 0x7fffffffu) > 0x7f800000u) return uint16_t((word >> 16) | 0x40);
  return uint16_t((word + 0x7fffu + ((word >> 16) & 1u)) >> 16);
}

#if defined(__AVX512F__)
constexpr int VL = 16;
using vf = __m512;
HFX_INLINE vf load(const float* p) { return _mm512_loadu_ps(p); }
HFX_INLINE void store(float* p, vf a) { _mm512_storeu_ps(p, a); }
HFX_INLINE vf splat(float x) { return _mm512_set1_ps(x); }
HFX_INLINE vf add(vf a, vf b) { return _mm512_add_ps(a, b); }
HFX_INLINE vf sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
HFX_INLINE vf mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
HFX_INLINE vf div(vf a, vf b) { return _mm512_div_ps(a, b); }
HFX_INLINE vf fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
HFX_INLINE vf max(vf a, vf b) { return _mm512_max_ps(a, b); }
HFX_INLINE vf min(vf a, vf b) { return _mm512_min_ps(a, b); }
HFX_INLINE float sum(vf a) { return _mm512_reduce_add_ps(a); }
HFX_INLINE float greatest(vf a) { return _mm512_reduce_max_ps(a); }
// The greatest lane, or the sum of lanes, of each of four vectors: cheaper than one by one.
HFX_INLINE void greatest_of_four(const vf* x, float* to) {
  const vf ab = max(_mm512_unpacklo_ps(x[0], x[1]), _mm512_unpackhi_ps(x[0], x[1]));
  const vf cd = max(_mm512_unpacklo_ps(x[2], x[3]), _mm512_unpackhi_ps(x[2], x[3]));
  const vf all = max(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
  const __m256 half = _mm256_max_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
  _mm_storeu_ps(to, _mm_max_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
}
HFX_INLINE void sum_of_four(const vf* x, float* to) {
  const vf ab = add(_mm512_unpacklo_ps(x[0], x[1]), _mm512_unpackhi_ps(x[0], x[1]));
  const vf cd = add(_mm512_unpacklo_ps(x[2], x[3]), _mm512_unpackhi_ps(x[2], x[3]));
  const vf all = add(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
  _mm_storeu_ps(to, _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
}
HFX_INLINE vf round_to_int(vf a) { return _mm512_roundscale_ps(a, 0x08); }
HFX_INLINE vf scale_finite_by_power(vf mantissa, vf power, vf) {
  return _mm512_scalef_ps(mantissa, power);
}
HFX_INLINE vf scale_by_power(vf mantissa, vf power, vf x) {  // 0 unless x >= -126
  const __mmask16 normal = _mm512_cmp_ps_mask(x, splat(-126.f), _CMP_GE_OQ);
  return _mm512_maskz_scalef_ps(normal, mantissa, power);
}

HFX_INLINE vf with_sign_of(vf sign, vf magnitude) {
  return _mm512_or_ps(magnitude, _mm512_and_ps(sign, splat(-0.f)));
}
HFX_INLINE vf magnitude(vf a) { return _mm512_andnot_ps(splat(-0.f), a); }

HFX_INLINE vf load_int8(const int8_t* p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p)));
}
HFX_INLINE void store_int8(int8_t* p, vf a) {  // whole numbers from -128 to 127
  _mm_storeu_si128((__m128i*)p, _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(a)));
}

HFX_INLINE vf load_bf16(const uint16_t* p) {
  const __m256i half = _mm256_loadu_si256((const __m256i*)p);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}
HFX_INLINE void store_bf16(uint16_t* p, vf a) {
#if defined(__AVX512BF16__)
  _mm256_storeu_si256((__m256i*)p, (__m256i)_mm512_cvtneps_pbh(a));
#else
  const __m512i word = _mm512_castps_si512(a);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(word, 16), _mm512_set1_epi32(1));
  const __m512i carry = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
  const __mmask16 nan = _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q);
  const __m512i kept = _mm512_or_si512(word, _mm512_set1_epi32(0x400000));
  const __m512i rounded = _mm512_mask_mov_epi32(_mm512_add_epi32(word, carry), nan, kept);
  _mm256_storeu_si256((__m256i*)p, _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16)));
#endif
}

#if defined(__AVX512BF16__)
using vb = __m512bh;
HFX_INLINE vb load_pairs(const uint16_t* p) {
  __m512i pairs = _mm512_loadu_si512(p);
  asm("" : "+v"(pairs));  // or gcc 12 loads them anew for every row that they multiply
  return (vb)pairs;
}
HFX_INLINE vb load_int8_pairs(const int8_t* p) {  // exact: bf16 has eight bits
  __m512i pairs = (__m512i)_mm512_cvtne2ps_pbh(load_int8(p + VL), load_int8(p));
  asm("" : "+v"(pairs));
  return (vb)pairs;
}
HFX_INLINE void store_two_bf16(uint16_t* p, vf a, vf b) {
  _mm512_storeu_si512(p, (__m512i)_mm512_cvtne2ps_pbh(b, a));
}
#else
struct vb {
  vf even, odd;
};
HFX_INLINE vb load_int8_pairs(const int8_t* p) {
  const __m512i word = _mm512_cvtepi16_epi32(_mm256_loadu_si256((const __m256i*)p));
  const __m512i even = _mm512_srai_epi32(_mm512_slli_epi32(word, 24), 24);
  return {_mm512_cvtepi32_ps(even), _mm512_cvtepi32_ps(_mm512_srai_epi32(word, 8))};
}
HFX_INLINE vb load_pairs(const uint16_t* p) {
  const __m512i word = _mm512_loadu_si512(p);
  return {_mm512_castsi512_ps(_mm512_slli_epi32(word, 16)),
          _mm512_castsi512_ps(_mm512_and_si512(word, _mm512_set1_epi32(int(0xffff0000))))};
}
#endif

#else  // AVX2
constexpr int VL = 8;
using vf = __m256;
HFX_INLINE vf load(const float* p) { return _mm256_loadu_ps(p); }
HFX_INLINE void store(float* p, vf a) { _mm256_storeu_ps(p, a); }
HFX_INLINE vf splat(float x) { return _mm256_set1_ps(x); }
HFX_INLINE vf add(vf a, vf b) { return _mm256_add_ps(a, b); }
HFX_INLINE vf sub(vf a, vf b) { return _mm256_sub_ps(a, b); }
HFX_INLINE vf mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
HFX_INLINE vf div(vf a, vf b) { return _mm256_div_ps(a, b); }
HFX_INLINE vf fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
HFX_INLINE vf max(vf a, vf b) { return _mm256_max_ps(a, b); }
HFX_INLINE vf min(vf a, vf b) { return _mm256_min_ps(a, b); }
HFX_INLINE float sum(vf a) {
  __m128 x = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  x = _mm_add_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_add_ss(x, _mm_shuffle_ps(x, x, 1)));
}
HFX_INLINE float greatest(vf a) {
  __m128 x = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  x = _mm_max_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_max_ss(x, _mm_shuffle_ps(x, x, 1)));
}
HFX_INLINE void greatest_of_four(const vf* x, float* to) {
  const vf ab = max(_mm256_unpacklo_ps(x[0], x[1]), _mm256_unpackhi_ps(x[0], x[1]));
  const vf cd = max(_mm256_unpacklo_ps(x[2], x[3]), _mm256_unpackhi_ps(x[2], x[3]));
  const vf all = max(_mm256_shuffle_ps(ab, cd, 0x44), _mm256_shuffle_ps(ab, cd, 0xee));
  _mm_storeu_ps(to, _mm_max_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1)));
}
HFX_INLINE void sum_of_four(const vf* x, float* to) {
  const vf ab = add(_mm256_unpacklo_ps(x[0], x[1]), _mm256_unpackhi_ps(x[0], x[1]));
  const vf cd = add(_mm256_unpacklo_ps(x[2], x[3]), _mm256_unpackhi_ps(x[2], x[3]));
  const vf all = add(_mm256_shuffle_ps(ab, cd, 0x44), _mm256_shuffle_ps(ab, cd, 0xee));
  _mm_storeu_ps(to, _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1)));
}
HFX_INLINE vf round_to_int(vf a) { return _mm256_round_ps(a, 0x08); }
HFX_INLINE vf scale_by_power(vf mantissa, vf power, vf x) {  // 0 unless x >= -126
  const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(power), _mm256_set1_epi32(127));
  const vf scaled = mul(mantissa, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
  return _mm256_and_ps(scaled, _mm256_cmp_ps(x, splat(-126.f), _CMP_GE_OQ));
}
HFX_INLINE vf scale_finite_by_power(vf mantissa, vf power, vf x) {
  return scale_by_power(mantissa, power, x);
}

HFX_INLINE vf with_sign_of(vf sign, vf magnitude) {
  return _mm256_or_ps(magnitude, _mm256_and_ps(sign, splat(-0.f)));
}
HFX_INLINE vf magnitude(vf a) { return _mm256_andnot_ps(splat(-0.f), a); }

HFX_INLINE vf load_int8(const int8_t* p) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p)));
}
HFX_INLINE void store_int8(int8_t* p, vf a) {  // whole numbers from -128 to 127
  const __m256i word = _mm256_cvtps_epi32(a);
  const __m128i half =
      _mm_packs_epi32(_mm256_castsi256_si128(word), _mm256_extracti128_si256(word, 1));
  _mm_storel_epi64((__m128i*)p, _mm_packs_epi16(half, half));
}

HFX_INLINE vf load_bf16(const uint16_t* p) {
  const __m128i half = _mm_loadu_si128((const __m128i*)p);
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}
HFX_INLINE void store_bf16(uint16_t* p, vf a) {
  const __m256i word = _mm256_castps_si256(a);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(word, 16), _mm256_set1_epi32(1));
  const __m256i carry = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q));
  const __m256i kept = _mm256_or_si256(word, _mm256_set1_epi32(0x400000));
  const __m256i bits = _mm256_blendv_epi8(_mm256_add_epi32(word, carry), kept, nan);
  const __m256i high = _mm256_srli_epi32(bits, 16);
  const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(high, high), 0x08);
  _mm_storeu_si128((__m128i*)p, _mm256_castsi256_si128(packed));
}

struct vb {
  vf even, odd;
};
HFX_INLINE vb load_int8_pairs(const int8_t* p) {
  const __m256i word = _mm256_cvtepi16_epi32(_mm_loadu_si128((const __m128i*)p));
  const __m256i even = _mm256_srai_epi32(_mm256_slli_epi32(word, 24), 24);
  return {_mm256_cvtepi32_ps(even), _mm256_cvtepi32_ps(_mm256_srai_epi32(word, 8))};
}
HFX_INLINE vb load_pairs(const uint16_t* p) {
  const __m256i word = _mm256_loadu_si256((const __m256i*)p);
  return {_mm256_castsi256_ps(_mm256_slli_epi32(word, 16)),
          _mm256_castsi256_ps(_mm256_and_si256(word, _mm256_set1_epi32(int(0xffff0000))))};
}
#endif

// acc + a.even * b.even + a.odd * b.odd, with the pair at `a` broadcast to every lane.
HFX_INLINE vf dot_pairs(vf acc, const uint16_t* a, vb b) {
#if defined(__AVX512BF16__)
  int32_t word;
  memcpy(&word, a, 4);
  return _mm512_dpbf16_ps(acc, (vb)_mm512_set1_epi32(word), b);
#else
  return fma(splat(float_of(a[1])), b.odd, fma(splat(float_of(a[0])), b.even, acc));
#endif
}

// exp2 for x <= 0: degree-5 polynomial on a fraction in [-1/2, 1/2], relative error < 2e-7, and 1 of
// 0 exactly: a page that a row doesn't see leaves its sums as they are, to the bit. Below -126, the
// least normal number, it's 0; of minus infinity and NaN too.
HFX_INLINE vf exp2_of_negative(vf x) {
  const vf power = round_to_int(x);
  const vf f = sub(x, power);
  vf p = splat(1.3264699e-3f);
  p = fma(p, f, splat(9.6715088e-3f));
  p = fma(p, f, splat(5.5507338e-2f));
  p = fma(p, f, splat(2.4022242e-1f));
  p = fma(p, f, splat(6.9314698e-1f));
  p = fma(p, f, splat(1.f));
  return scale_by_power(p, power, x);
}

// The same with a relative error of 1e-4, a twentieth of what rounding to bf16 loses. Of FINITE x only,
// it need not be 0 below -126.
template <bool FINITE>
HFX_INLINE vf exp2_of_negative_coarse(vf x) {
  const vf power = round_to_int(x);
  const vf f = sub(x, power);
  vf p = splat(5.5008582e-2f);
  p = fma(p, f, splat(2.4221038e-1f));
  p = fma(p, f, splat(6.9328290e-1f));
  p = fma(p, f, splat(1.f));
  return FINITE ? scale_finite_by_power(p, power, x) : scale_by_power(p, power, x);
}

// tanh, by 2^y - 1 without cancellation: 2^n (2^f - 1) + (2^n - 1), f in [-1/2, 1/2]. NaN isn't kept.
HFX_INLINE vf tanh(vf x) {
  const vf y = mul(magnitude(x), splat(-2.88539008f));  // -2 log2(e)
  const vf power = round_to_int(y), f = sub(y, power);
  vf p = splat(1.5252734e-5f);  // ln(2)^k / k!
  p = fma(p, f, splat(1.5403530e-4f));
  p = fma(p, f, splat(1.3333558e-3f));
  p = fma(p, f, splat(9.6181291e-3f));
  p = fma(p, f, splat(5.5504109e-2f));
  p = fma(p, f, splat(2.4022651e-1f));
  p = fma(p, f, splat(6.9314718e-1f));
  const vf whole = scale_by_power(splat(1.f), power, y);
  const vf less = fma(mul(p, f), whole, sub(whole, splat(1.f)));
  return with_sign_of(x, div(sub(splat(0.f), less), add(less, splat(2.f))));
}

}  // namespace HFX_ISA
