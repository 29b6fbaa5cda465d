#pragma once

#include <array>
#include <string_view>

namespace perrin::launch {

/// A file of bench/networks/, which the build puts into the program.
struct BenchNetworkText {
  std::string_view name, image, toml;
};

extern const std::array<BenchNetworkText, 2> kBenchNetworks;

}  // namespace perrin::launch
