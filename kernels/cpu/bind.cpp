// Python's door to the CPU kernels. The callers are the launchers beside this file: they pass
// addresses and strides that they vouch for.
//
// The interpreter lock is kept through short calls: a decode step makes hundreds of them, and after
// each release another Python thread may hold the lock for milliseconds.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <vector>

#include "cache.hpp"
#include "cpu_level.hpp"
#include "pointwise.hpp"
#include "probe.hpp"
#include "queue.hpp"
#include "unlocked.hpp"

namespace nb = nanobind;

void bind_linear(nb::module_& m);
void bind_sources(nb::module_& m);

namespace {

using hfx::Unlocked;
using Address = uintptr_t;
template <typename Number, int DIMENSIONS>
using Array = nb::ndarray<const Number, nb::ndim<DIMENSIONS>, nb::c_contig, nb::device::cpu>;

constexpr int64_t RELEASE_NUMBERS = 4 * hfx::PARALLEL_NUMBERS;
constexpr float LOG2_E = 1.44269504f;
constexpr int64_t RELEASE_COST = 2 * 1000 * 1000;

template <typename Function>
Function choose(int level, Function avx2, Function avx512, Function avx512bf16) {
  return level >= hfx::avx512bf16 ? avx512bf16 : level == hfx::avx512 ? avx512 : avx2;
}

// One step's tiles, ready to launch for every layer; keeps the arrays that it points to.
class Work {
 public:
  Work(Array<int32_t, 2> items, Array<int32_t, 2> reductions, Array<int32_t, 2> table,
       int64_t slots, int64_t tile_rows, int kv_heads, int group, int head_size, int page_tokens,
       int window, float scale, float softcap, bool bf16, bool scale_per_token, int threads,
       int level)
      : items_(items), reductions_(reductions), table_(table), level_(level) {
    work_ = {(const hfx::WorkItem*)items.data(), int64_t(items.shape(0)),
             (const hfx::Reduction*)reductions.data(), int64_t(reductions.shape(0)), tile_rows,
             threads};
    partial_.resize(slots * kv_heads * tile_rows * head_size);
    partial_stats_.resize(slots * kv_heads * tile_rows * 2);
    call_.table = table.data();
    call_.table_stride = table.shape(1);
    call_.partial = partial_.data();
    call_.partial_stats = partial_stats_.data();
    call_.partial_rows = tile_rows;
    call_.scale = softcap > 0 ? scale / softcap : scale * LOG2_E;
    call_.cap_log2 = softcap * LOG2_E;
    call_.scale_per_token = scale_per_token;
    call_.kv_heads = kv_heads;
    call_.group = group;
    call_.head_size = head_size;
    call_.page_tokens = page_tokens;
    call_.window = window;
    call_.bf16 = bf16;
    long_ = hfx::attend_cost(work_, kv_heads, group, head_size) > RELEASE_COST;
  }

  void attend(Address q, int64_t q_stride, Address k, Address v, Address k_scale, Address v_scale,
              Address sinks, Address out, int64_t out_stride) const {
    hfx::AttendCall call = call_;
    call.q = (const void*)q;
    call.k = (const void*)k;
    call.v = (const void*)v;
    call.k_scale = (const float*)k_scale;
    call.v_scale = (const float*)v_scale;
    call.sinks = (const float*)sinks;
    call.out = (void*)out;
    call.q_stride = q_stride;
    call.out_stride = out_stride;
    const Unlocked unlocked(long_);
    hfx::attend(call, work_, level_);
  }

 private:
  Array<int32_t, 2> items_, reductions_, table_;
  std::vector<float> partial_, partial_stats_;
  hfx::AttendWork work_{};
  hfx::AttendCall call_{};
  int level_;
  bool long_;
};

void rms_norm(Address x, int64_t x_stride, int64_t x_head_stride, Address weight, Address residual,
              int64_t residual_stride, Address y, int64_t y_stride, int64_t y_head_stride,
              int64_t tokens, int64_t heads, int64_t width, float eps, bool bf16, int threads,
              int level) {
  const hfx::NormCall call{(const void*)x, (const void*)weight, (void*)residual, (void*)y, heads,
                           x_stride, x_head_stride, residual_stride, y_stride, y_head_stride,
                           width, eps, bf16};
  const auto range = choose<hfx::NormRange>(level, hfx_avx2::norm_range, hfx_avx512::norm_range,
                                            hfx_avx512bf16::norm_range);
  const Unlocked unlocked(tokens * heads * width > RELEASE_NUMBERS);
  hfx::for_rows(tokens * heads, width, threads,
                [&](int64_t begin, int64_t end) { range(call, begin, end); });
}

void silu_mul(Address gate_up, int64_t gate_up_stride, Address y, int64_t y_stride, int64_t rows,
              int64_t width, bool bf16, int threads, int level) {
  const hfx::SiluCall call{(const void*)gate_up, (void*)y, gate_up_stride, y_stride, width, bf16};
  const auto range = choose<hfx::SiluRange>(level, hfx_avx2::silu_range, hfx_avx512::silu_range,
                                            hfx_avx512bf16::silu_range);
  const Unlocked unlocked(rows * width > RELEASE_NUMBERS);
  hfx::for_rows(rows, width, threads,
                [&](int64_t begin, int64_t end) { range(call, begin, end); });
}

hfx::RopeRange rope_range(int level) {
  return choose<hfx::RopeRange>(level, hfx_avx2::rope_range, hfx_avx512::rope_range,
                                hfx_avx512bf16::rope_range);
}

hfx::WriteRange write_range(int level) {
  return choose<hfx::WriteRange>(level, hfx_avx2::write_range, hfx_avx512::write_range,
                                 hfx_avx512bf16::write_range);
}

void rope(Address q, int64_t q_stride, int query_heads, Address k, int64_t k_stride, int kv_heads,
          int head_size, Array<int32_t, 1> positions, Address table, int rotary, bool neox,
          bool bf16, int threads, int level) {
  const hfx::RopeCall call{(void*)q, (void*)k, q_stride, k_stride, query_heads, kv_heads,
                           head_size, positions.data(), (const float*)table, rotary, neox, bf16};
  const auto range = rope_range(level);
  const int64_t tokens = positions.shape(0), width = int64_t(query_heads + kv_heads) * head_size;
  const Unlocked unlocked(tokens * width > RELEASE_NUMBERS);
  hfx::for_rows(tokens, width, threads,
                [&](int64_t begin, int64_t end) { range(call, begin, end); });
}

void kv_write(Address k, int64_t k_stride, Address v, int64_t v_stride, Address cache_k,
              Address cache_v, Address k_scale, Address v_scale, bool scale_per_token,
              Array<int64_t, 1> slots, int kv_heads, int head_size, int page_tokens, bool bf16,
              int threads, int level) {
  const hfx::WriteCall call{(const void*)k, (const void*)v, k_stride, v_stride, (void*)cache_k,
                            (void*)cache_v, slots.data(), (float*)k_scale, (float*)v_scale,
                            scale_per_token, kv_heads, head_size, page_tokens, bf16};
  const auto range = write_range(level);
  const int64_t tokens = slots.shape(0), width = int64_t(2 * kv_heads) * head_size;
  const Unlocked unlocked(tokens * width > RELEASE_NUMBERS);
  hfx::for_rows(tokens, width, threads,
                [&](int64_t begin, int64_t end) { range(call, begin, end); });
}

void rope_kv_write(Address q, int64_t q_stride, int query_heads, Address k, int64_t k_stride,
                   Address v, int64_t v_stride, int kv_heads, int head_size,
                   Array<int32_t, 1> positions, Address table, int rotary, bool neox,
                   Address cache_k, Address cache_v, Address k_scale, Address v_scale,
                   bool scale_per_token, Array<int64_t, 1> slots, int page_tokens, bool bf16,
                   int threads, int level) {
  const hfx::RopeCall turn{(void*)q, (void*)k, q_stride, k_stride, query_heads, kv_heads,
                           head_size, positions.data(), (const float*)table, rotary, neox, bf16};
  const hfx::WriteCall put{(const void*)k, (const void*)v, k_stride, v_stride, (void*)cache_k,
                           (void*)cache_v, slots.data(), (float*)k_scale, (float*)v_scale,
                           scale_per_token, kv_heads, head_size, page_tokens, bf16};
  const auto rotate = rope_range(level);
  const auto write = write_range(level);
  const int64_t tokens = slots.shape(0), width = int64_t(query_heads + 3 * kv_heads) * head_size;
  const Unlocked unlocked(tokens * width > RELEASE_NUMBERS);
  hfx::for_rows(tokens, width, threads, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++) {  // a token's keys are still in L1 when they're written
      rotate(turn, t, t + 1);
      write(put, t, t + 1);
    }
  });
}

}  // namespace

NB_MODULE(_cpu, m) {
  m.doc() = "Kernels of the back end \"cpu\"; `hfx.kernels` is the door to them.";
  nb::set_leak_warnings(false);  // what a daemon thread holds when the interpreter ends is no leak
  m.def("cpu_level", [] { return int(hfx::cpu_level()); });
  m.def(
      "read_all",
      [](Address from, int64_t bytes, int threads) {
        const Unlocked unlocked(true);
        return hfx::read_all((const void*)from, bytes, threads);
      },
      nb::arg("address"), nb::arg("bytes"), nb::arg("threads"));
  nb::class_<Work>(m, "Work")
      .def(nb::init<Array<int32_t, 2>, Array<int32_t, 2>, Array<int32_t, 2>, int64_t, int64_t, int,
                    int, int, int, int, float, float, bool, bool, int, int>(),
           nb::arg("items"), nb::arg("reductions"), nb::arg("table"), nb::arg("slots"),
           nb::arg("tile_rows"), nb::arg("kv_heads"), nb::arg("group"), nb::arg("head_size"),
           nb::arg("page_tokens"), nb::arg("window"), nb::arg("scale"),
           nb::arg("softcap"), nb::arg("bf16"), nb::arg("scale_per_token"), nb::arg("threads"),
           nb::arg("level"))
      .def("attend", &Work::attend, nb::arg("q"), nb::arg("q_stride"), nb::arg("k"), nb::arg("v"),
           nb::arg("k_scale"), nb::arg("v_scale"), nb::arg("sinks"), nb::arg("out"),
           nb::arg("out_stride"));
  m.def("rms_norm", &rms_norm, nb::arg("x"), nb::arg("x_stride"), nb::arg("x_head_stride"),
        nb::arg("weight"), nb::arg("residual"), nb::arg("residual_stride"), nb::arg("y"),
        nb::arg("y_stride"), nb::arg("y_head_stride"), nb::arg("tokens"), nb::arg("heads"),
        nb::arg("width"), nb::arg("eps"), nb::arg("bf16"), nb::arg("threads"), nb::arg("level"));
  m.def("silu_mul", &silu_mul, nb::arg("gate_up"), nb::arg("gate_up_stride"), nb::arg("y"),
        nb::arg("y_stride"), nb::arg("rows"), nb::arg("width"), nb::arg("bf16"),
        nb::arg("threads"), nb::arg("level"));
  m.def("rope", &rope, nb::arg("q"), nb::arg("q_stride"), nb::arg("query_heads"), nb::arg("k"),
        nb::arg("k_stride"), nb::arg("kv_heads"), nb::arg("head_size"), nb::arg("positions"),
        nb::arg("table"), nb::arg("rotary"), nb::arg("neox"), nb::arg("bf16"), nb::arg("threads"),
        nb::arg("level"));
  m.def("kv_write", &kv_write, nb::arg("k"), nb::arg("k_stride"), nb::arg("v"),
        nb::arg("v_stride"), nb::arg("cache_k"), nb::arg("cache_v"), nb::arg("k_scale"),
        nb::arg("v_scale"), nb::arg("scale_per_token"), nb::arg("slots"), nb::arg("kv_heads"),
        nb::arg("head_size"), nb::arg("page_tokens"), nb::arg("bf16"), nb::arg("threads"),
        nb::arg("level"));
  m.def("rope_kv_write", &rope_kv_write, nb::arg("q"), nb::arg("q_stride"),
        nb::arg("query_heads"), nb::arg("k"), nb::arg("k_stride"), nb::arg("v"),
        nb::arg("v_stride"), nb::arg("kv_heads"), nb::arg("head_size"), nb::arg("positions"),
        nb::arg("table"), nb::arg("rotary"), nb::arg("neox"), nb::arg("cache_k"),
        nb::arg("cache_v"), nb::arg("k_scale"), nb::arg("v_scale"), nb::arg("scale_per_token"),
        nb::arg("slots"), nb::arg("page_tokens"), nb::arg("bf16"), nb::arg("threads"),
        nb::arg("level"));
  bind_linear(m);
  bind_sources(m);
}
