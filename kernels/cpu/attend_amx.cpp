#define HFX_ISA hfx_amx
#include "attend_impl.hpp"
