#pragma once

#include <cstdint>
#include <string>

#include "trainer/config.hpp"

namespace perrin::trainer {

/// What the loader of one rank did in the steps of a window.
struct LoaderWindow {
  double seconds = 0;  ///< of all steps
  double stall_seconds = 0;
  std::uint64_t image_bytes = 0;
  std::uint64_t storage_bytes = 0;  ///< that were not in the page cache
};

/// Notices that training waits for its images, and says once which remedy fits. It judges once windows make
/// kLeastSeconds, so that a hiccup is none.
class LoaderWatch {
 public:
  static constexpr double kMuchStall = 0.1;     ///< of the time of the steps
  static constexpr double kMuchStorage = 0.05;  ///< of the bytes of the images
  static constexpr double kLeastSeconds = 1;

  explicit LoaderWatch(const DataConfig& config) : config_(config) {}

  /// Takes in a window. @return the sentence, or nothing
  std::string observe(const LoaderWindow& window);

 private:
  DataConfig config_;
  LoaderWindow sum_;
  bool said_ = false;
};

}  // namespace perrin::trainer
