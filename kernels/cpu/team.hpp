// Threads that share out one call's tasks, and whose caller never waits for a thread without one.
//
// An OpenMP region ends when every thread has arrived, so a thread that lost its core to another
// process stops the whole call until the scheduler lets it run again, some 4 ms later, in each of a
// step's 150 regions. Here the caller takes what nobody else has taken and waits only for tasks
// that are being computed.
#pragma once
#include <cstdint>

namespace hfx {

using Task = void (*)(const void* context, int64_t index);

// Calls task(context, i) once for each i in [0, count), on up to `threads` threads, the caller's
// among them, and returns when all are done. Calls from several threads at once are safe: one has
// the team, the others compute alone. A task must not throw, nor call share().
void share(int threads, int64_t count, Task task, const void* context);

// The same for anything callable with an index.
template <typename Callable>
void share(int threads, int64_t count, const Callable& callable) {
  share(threads, count,
        [](const void* context, int64_t i) { (*static_cast<const Callable*>(context))(i); },
        &callable);
}

}  // namespace hfx
