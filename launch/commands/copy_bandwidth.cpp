#include "launch/commands/copy_bandwidth.hpp"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <chrono>
#include <cstring>

namespace perrin::launch {
namespace {

constexpr std::int64_t kBytes = std::int64_t{256} << 20;

}  // namespace

CopyBandwidth::CopyBandwidth() : from_(at::ones({kBytes}, at::kByte)), to_(at::zeros({kBytes}, at::kByte)) {}

double CopyBandwidth::measure() {
  const std::uint8_t* from = from_.const_data_ptr<std::uint8_t>();
  std::uint8_t* to = to_.mutable_data_ptr<std::uint8_t>();
  const auto begun = std::chrono::steady_clock::now();
  at::parallel_for(0, kBytes, std::int64_t{1} << 20, [&](std::int64_t begin, std::int64_t end) {
    std::memcpy(to + begin, from + begin, static_cast<std::size_t>(end - begin));
  });
  return 2 * kBytes / std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
}

}  // namespace perrin::launch
