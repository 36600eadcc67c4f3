#define HFX_ISA hfx_avx512bf16
#include "pointwise_impl.hpp"
