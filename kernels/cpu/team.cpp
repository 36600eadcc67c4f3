#include "team.hpp"

#include <immintrin.h>
#include <pthread.h>
#include <sched.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

namespace hfx {
namespace {

using Clock = std::chrono::steady_clock;

// Longer than what one thread computes alone between two calls of a forward: a thread that falls
// asleep there is late, and may be woken on the very core that is busy with the caller.
constexpr auto AWAKE = std::chrono::microseconds(500);
constexpr int PAUSES_PER_LOOK = 16;
constexpr int LOOKS_BEFORE_YIELD = 4096;  // some 0.5 ms: whoever computes may need this very core
constexpr int MOST_THREADS = 256;

constexpr uint64_t job_of(uint64_t state) { return state >> 32; }
constexpr int64_t left_of(uint64_t state) { return int64_t(state & 0xffffffffu); }

// One job at a time. `state_` holds the job's number and how many of its tasks are left to claim in
// one word: a thread that slept through the end of one job can't claim a task of the next, and
// what it read of a job is of that job if its claim succeeds.
class Team {
 public:
  void run(int threads, int64_t count, Task task, const void* context) {
    grow(threads - 1);
    const uint64_t job = job_of(state_.load(std::memory_order_relaxed)) + 1;
    task_.store(task, std::memory_order_relaxed);
    context_.store(context, std::memory_order_relaxed);
    helpers_.store(threads - 1, std::memory_order_relaxed);
    count_.store(count, std::memory_order_relaxed);
    done_.store(0, std::memory_order_relaxed);
    state_.store(job << 32 | uint64_t(count), std::memory_order_seq_cst);
    if (asleep_.load(std::memory_order_seq_cst) > 0) wake();
    work(job);
    for (int looks = 0; done_.load(std::memory_order_acquire) < count; looks++) {
      if (looks < LOOKS_BEFORE_YIELD) pause();
      else sched_yield();
    }
  }

  std::mutex owner;  // who runs a job

 private:
  static void pause() {
    for (int i = 0; i < PAUSES_PER_LOOK; i++) _mm_pause();
  }

  // Compute tasks of a job until none is left to claim.
  void work(uint64_t job) {
    uint64_t state = state_.load(std::memory_order_acquire);
    const Task task = task_.load(std::memory_order_relaxed);
    const void* context = context_.load(std::memory_order_relaxed);
    const int64_t count = count_.load(std::memory_order_relaxed);
    while (job_of(state) == job && left_of(state) > 0) {
      if (!state_.compare_exchange_weak(state, state - 1, std::memory_order_acq_rel)) continue;
      task(context, count - left_of(state));
      done_.fetch_add(1, std::memory_order_release);
      state = state_.load(std::memory_order_acquire);
    }
  }

  void live(int place) {
    uint64_t seen = 0;
    for (;;) {
      const uint64_t job = await(seen);
      if (place < helpers_.load(std::memory_order_relaxed)) work(job);
      seen = job;
    }
  }

  // The number of a job later than `seen`: looked for while awake, waited for asleep.
  uint64_t await(uint64_t seen) {
    const auto until = Clock::now() + AWAKE;
    do {
      for (int looks = 0; looks < 8; looks++, pause())
        if (const uint64_t job = current(); job != seen) return job;
    } while (Clock::now() < until);
    std::unique_lock lock(sleep_);
    asleep_.fetch_add(1, std::memory_order_seq_cst);
    woken_.wait(lock, [&] { return current() != seen; });
    asleep_.fetch_sub(1, std::memory_order_relaxed);
    return current();
  }

  uint64_t current() const { return job_of(state_.load(std::memory_order_seq_cst)); }

  void wake() {
    std::lock_guard lock(sleep_);
    woken_.notify_all();
  }

  void grow(int helpers) {
    for (; size_ < helpers; size_++) std::thread(&Team::live, this, size_).detach();
  }

  alignas(64) std::atomic<uint64_t> state_{0};
  alignas(64) std::atomic<int64_t> done_{0};
  alignas(64) std::atomic<int64_t> count_{0};
  std::atomic<Task> task_{nullptr};
  std::atomic<const void*> context_{nullptr};
  std::atomic<int> helpers_{0};
  std::atomic<int> asleep_{0};
  std::mutex sleep_;
  std::condition_variable woken_;
  int size_ = 0;
};

std::atomic<Team*> team{nullptr};

// Never destroyed: its threads may still look at it while the process ends. A forked child has none
// of the threads, so it starts a team of its own.
Team& the_team() {
  static const bool hooked = [] {
    team.store(new Team);
    pthread_atfork(nullptr, nullptr, [] { team.store(new Team); });
    return true;
  }();
  (void)hooked;
  return *team.load(std::memory_order_acquire);
}

}  // namespace

void share(int threads, int64_t count, Task task, const void* context) {
  if (threads > 1 && count > 1 && count < (int64_t(1) << 32) - MOST_THREADS) {
    Team& team = the_team();
    if (std::unique_lock lock(team.owner, std::try_to_lock); lock) {
      return team.run(threads < MOST_THREADS ? threads : MOST_THREADS, count, task, context);
    }
  }
  for (int64_t i = 0; i < count; i++) task(context, i);
}

}  // namespace hfx
