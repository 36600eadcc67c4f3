#define HFX_ISA hfx_avx2
#include "linear_impl.hpp"
