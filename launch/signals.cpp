#include "launch/signals.hpp"

#include <atomic>
#include <csignal>

namespace perrin::launch {
namespace {

// A handler reaches nothing but globals.
std::atomic<bool> orderly{false}, soon{false};
static_assert(std::atomic<bool>::is_always_lock_free, "else a signal handler must not touch it");

void on_orderly(int) { orderly = true; }
void on_soon(int) { soon = true; }

void handle(int signal, void (*handler)(int), int flags) {
  struct sigaction action {};
  action.sa_handler = handler;
  action.sa_flags = SA_RESTART | flags;
  sigemptyset(&action.sa_mask);
  ::sigaction(signal, &action, nullptr);
}

}  // namespace

void note_signals(bool launched) {
  handle(SIGUSR1, on_orderly, 0);
  handle(SIGXFSZ, SIG_IGN, 0);  // a limit of file sizes (ulimit -f) is an error like a full disk
  handle(SIGTERM, launched ? on_soon : on_orderly, 0);
  if (launched)
    handle(SIGINT, on_soon, 0);
  else
    handle(SIGINT, on_orderly, static_cast<int>(SA_RESETHAND));
}

trainer::StopNotice noted_signal() noexcept {
  if (orderly) return trainer::StopNotice::orderly;
  return soon ? trainer::StopNotice::soon : trainer::StopNotice::none;
}

}  // namespace perrin::launch
