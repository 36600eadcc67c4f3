#define HFX_ISA hfx_avx2
#include "pointwise_impl.hpp"
