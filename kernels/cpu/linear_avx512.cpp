#define HFX_ISA hfx_avx512
#include "linear_impl.hpp"
