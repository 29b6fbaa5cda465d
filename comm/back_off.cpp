#include "comm/back_off.hpp"

#include <algorithm>
#include <thread>

namespace perrin::comm {
namespace {

constexpr std::chrono::microseconds kFirstSleep{10};

}  // namespace

BackOff::BackOff(std::chrono::microseconds yield_for, std::chrono::microseconds longest_sleep) noexcept
    : yield_for_(yield_for), longest_sleep_(longest_sleep) {
  reset();
}

void BackOff::reset() noexcept {
  next_sleep_ = kFirstSleep;
  yield_until_ = Clock::now() + yield_for_;
}

void BackOff::pause() noexcept {
  if (Clock::now() < yield_until_) {
    std::this_thread::yield();
    return;
  }
  std::this_thread::sleep_for(next_sleep_);
  next_sleep_ = std::min(2 * next_sleep_, longest_sleep_);
}

void BackOff::rest() const noexcept { std::this_thread::sleep_for(longest_sleep_); }

}  // namespace perrin::comm
