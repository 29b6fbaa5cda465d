#include "trainer/checkpoint/retention.hpp"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "data/data_error.hpp"
#include "data/file.hpp"
#include "trainer/checkpoint/checkpoint_error.hpp"
#include "trainer/checkpoint/checkpoint_name.hpp"
#include "trainer/checkpoint/manifest.hpp"

namespace perrin::trainer {

std::vector<std::filesystem::path> superfluous(const std::vector<KeptCheckpoint>& newest_first,
                                               const CheckpointConfig& config) {
  const KeptCheckpoint* best = nullptr;
  for (const KeptCheckpoint& checkpoint : newest_first)
    if (config.keep_best && checkpoint.heldout_loss && std::isfinite(*checkpoint.heldout_loss) &&
        (best == nullptr || *checkpoint.heldout_loss < *best->heldout_loss))
      best = &checkpoint;
  std::vector<std::filesystem::path> found;
  std::int64_t own = 0;  // of the branch that the run is on
  std::int64_t lowest = std::numeric_limits<std::int64_t>::max();
  for (const KeptCheckpoint& checkpoint : newest_first) {
    const bool abandoned = checkpoint.step >= lowest;  // by a return to an earlier step
    lowest = std::min(lowest, checkpoint.step);
    const bool recent = !abandoned && own++ < config.keep;
    const bool milestone = config.keep_every > 0 && checkpoint.step % config.keep_every == 0;
    if (!recent && !milestone && &checkpoint != best) found.push_back(checkpoint.path);
  }
  return found;
}

void remove_superfluous(const std::filesystem::path& checkpoints, const CheckpointConfig& config) {
  std::vector<KeptCheckpoint> all;
  for (const auto& folder : list_checkpoints(checkpoints)) {
    try {
      const CheckpointManifest manifest = read_manifest(folder);
      all.push_back({folder, manifest.progress.step, manifest.heldout_loss});
    } catch (const CheckpointError& error) {
      spdlog::warn("{}; it is left where it is", error.what());
    }
  }
  for (const auto& folder : superfluous(all, config)) {
    try {
      data::rename_durably(folder, unfinished(folder));
    } catch (const data::DataError& error) {
      spdlog::warn("an old checkpoint stays: {}", error.what());
    }
  }
  remove_unfinished(checkpoints);
}

}  // namespace perrin::trainer
