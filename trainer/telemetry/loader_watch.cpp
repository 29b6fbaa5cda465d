#include "trainer/telemetry/loader_watch.hpp"

#include <fmt/format.h>

#include <utility>

namespace perrin::trainer {

std::string LoaderWatch::observe(const LoaderWindow& window) {
  sum_.seconds += window.seconds;
  sum_.stall_seconds += window.stall_seconds;
  sum_.image_bytes += window.image_bytes;
  sum_.storage_bytes += window.storage_bytes;
  if (said_ || sum_.seconds < kLeastSeconds) return {};
  const LoaderWindow judged = std::exchange(sum_, {});
  if (judged.stall_seconds < kMuchStall * judged.seconds) return {};
  said_ = true;
  const std::string stall =
      fmt::format("training waited for its images {:.0f} % of the time", 100 * judged.stall_seconds / judged.seconds);
  const double stored = kMuchStorage * static_cast<double>(judged.image_bytes);
  if (static_cast<double>(judged.storage_bytes) < stored)
    return fmt::format(
        "{}, though they were in the page cache; raise data.threads ({}), or start fewer threads or ranks "
        "on this node where no core is free",
        stall, config_.threads);
  if (!config_.warm_up)
    return fmt::format(
        "{}, which came from the storage; set data.warm_up if {} fits into the memory of this node, else "
        "copy it to a faster disk or raise data.threads ({})",
        stall, config_.train, config_.threads);
  return fmt::format(
      "{}, which came from the storage although data.warm_up is set; while {} is still being read ahead "
      "this passes, else it is larger than the memory: copy it to a faster disk or raise data.threads ({})",
      stall, config_.train, config_.threads);
}

}  // namespace perrin::trainer
