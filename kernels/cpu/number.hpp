// Vectors of float from and to rows of bf16 or fp32, whole or, at the end of a row, in part.
#pragma once
#include "simd.hpp"

namespace HFX_ISA {

HFX_INLINE vf get(const float* p) { return load(p); }
HFX_INLINE vf get(const uint16_t* p) { return load_bf16(p); }
HFX_INLINE void put(float* p, vf x) { store(p, x); }
HFX_INLINE void put(uint16_t* p, vf x) { store_bf16(p, x); }

template <typename Number>
HFX_INLINE vf get_first(const Number* p, int64_t count) {
  if (count >= VL) return get(p);
  Number lanes[VL] = {};
  for (int64_t i = 0; i < count; i++) lanes[i] = p[i];
  return get(lanes);
}

template <typename Number>
HFX_INLINE void put_first(Number* p, vf x, int64_t count) {
  if (count >= VL) return put(p, x);
  Number lanes[VL];
  put(lanes, x);
  for (int64_t i = 0; i < count; i++) p[i] = lanes[i];
}

// x as it reads back once it has been stored in that type.
HFX_INLINE vf rounded(vf x, const float*) { return x; }
HFX_INLINE vf rounded(vf x, const uint16_t*) {
  uint16_t lanes[VL];
  store_bf16(lanes, x);
  return load_bf16(lanes);
}

}  // namespace HFX_ISA
