#include "comm/device.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <map>
#include <utility>

namespace perrin::comm {

std::optional<int> device_of_rank(int visible_devices, int local_rank, DeviceSharing sharing) noexcept {
  if (visible_devices == 1) return 0;
  if (visible_devices > 0 && sharing == DeviceSharing::allowed) return local_rank % visible_devices;
  if (local_rank < visible_devices) return local_rank;
  return std::nullopt;
}

std::string describe_shared_devices(const std::vector<std::string>& hosts, const std::vector<std::string>& bus_ids) {
  std::map<std::pair<std::string, std::string>, std::vector<std::size_t>> ranks_of_device;
  for (std::size_t r = 0; r < hosts.size(); ++r) {
    if (!bus_ids[r].empty()) ranks_of_device[{hosts[r], bus_ids[r]}].push_back(r);
  }
  for (const auto& [device, ranks] : ranks_of_device) {
    if (ranks.size() < 2) continue;
    return fmt::format(
        "ranks {} on host {} share the GPU {}; NCCL needs one GPU for each rank. Start at most as many ranks per node "
        "as it has "
        "GPUs, and give Slurm --gpus-per-node, not --gpus-per-task. (For a test, not for speed, ranks may share: "
        "--share-gpu, in a run distributed.share_gpu.)",
        fmt::join(ranks, ", "), device.first, device.second);
  }
  return {};
}

}  // namespace perrin::comm
