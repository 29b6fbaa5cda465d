#include "comm/back_off.hpp"

#include <algorithm>
#include <thread>

namespace perrin::comm {
namespace {

constexpr std::chrono::microseconds kFirstSleep{10};

}  // namespace

BackOff::BackOff(std::chrono::microseconds spin_for, std::chrono::microseconds longest_sleep) noexcept
    : spin_for_(spin_for), longest_sleep_(longest_sleep) {
  reset();
}

void BackOff::reset() noexcept {
  next_sleep_ = kFirstSleep;
  spin_until_ = Clock::now() + spin_for_;
}

void BackOff::pause() noexcept {
  if (Clock::now() < spin_until_) return;
  std::this_thread::sleep_for(next_sleep_);
  next_sleep_ = std::min(2 * next_sleep_, longest_sleep_);
}

}  // namespace perrin::comm
