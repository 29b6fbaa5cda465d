#include "data/guarded_copy.hpp"

#include <csetjmp>
#include <csignal>
#include <cstring>

namespace perrin::data {
namespace {

/// Where a SIGBUS of this thread's copy ends; null: it is not copying. Volatile, since a signal handler reads it.
thread_local sigjmp_buf* volatile escape = nullptr;

struct sigaction before {};

void on_bus_error(int signal, siginfo_t* information, void* /*context*/) {
  if (escape != nullptr) siglongjmp(*escape, 1);
  ::sigaction(signal, &before, nullptr);
  // A fault repeats itself when this returns; what a process sent does not.
  if (information->si_code <= 0) ::raise(signal);
}

bool install_handler() noexcept {
  struct sigaction action {};
  action.sa_sigaction = on_bus_error;
  // Not blocked in its own handler: siglongjmp leaves the mask as it is there, and the next fault must arrive too.
  action.sa_flags = SA_SIGINFO | SA_NODEFER;
  return ::sigaction(SIGBUS, &action, &before) == 0;
}

}  // namespace

bool guarded_copy(std::span<std::byte> into, const std::byte* from) noexcept {
  static const bool installed = install_handler();
  if (!installed) return false;
  sigjmp_buf place;
  const bool faulted = sigsetjmp(place, /*savemask=*/0) != 0;
  if (!faulted) {
    escape = &place;
    std::memcpy(into.data(), from, into.size());
  }
  escape = nullptr;
  return !faulted;
}

}  // namespace perrin::data
