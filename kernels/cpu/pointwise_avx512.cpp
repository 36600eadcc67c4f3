#define HFX_ISA hfx_avx512
#include "pointwise_impl.hpp"
