// Which sources this extension was built from: CMake puts their fingerprint here, and `build.py`
// compares it with those that lie beside the launchers.
#include <nanobind/nanobind.h>

namespace nb = nanobind;

void bind_sources(nb::module_& m) {
  m.def("sources", [] { return HFX_SOURCES; });
}
