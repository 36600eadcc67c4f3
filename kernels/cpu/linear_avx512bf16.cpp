#define HFX_ISA hfx_avx512bf16
#include "linear_impl.hpp"
