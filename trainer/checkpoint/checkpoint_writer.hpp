#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <future>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "comm/communicator.hpp"
#include "trainer/checkpoint/incarnation.hpp"
#include "trainer/checkpoint/manifest.hpp"
#include "trainer/checkpoint/staged_state.hpp"
#include "trainer/checkpoint/training_state.hpp"
#include "trainer/config.hpp"
#include "trainer/optimize/shard_gather.hpp"
#include "trainer/votes.hpp"

namespace perrin::trainer {

/// How the writing of a checkpoint or snapshot ended.
struct WriteOutcome {
  std::filesystem::path path;
  bool published = false;
  std::int64_t step = 0;
  double stall_seconds = 0;  ///< that training stood still for the copy
  double seconds = 0;        ///< of rank 0: from the copy's begin to the name
  std::uint64_t bytes = 0;   ///< of rank 0's knowledge: of all ranks
};

/// Writes checkpoints and snapshots while training goes on. Every rank copies a part of the state and a thread of its
/// own writes it (at most one write is in flight); rank 0 adds the manifest, verifies and publishes by rename. A folder
/// with a checkpoint's name is whole, or does not exist. The ranks that do not see rank 0's folder write nothing.
///
/// Collective: every rank makes the same calls in the same order; what each thread has to say travels by Votes.
class CheckpointWriter {
 public:
  /// @param state of this rank; lives as long as this
  CheckpointWriter(TrainingState& state, const ShardGather& shards, comm::Communicator& control,
                   const Incarnation& incarnation, const CheckpointConfig& config);
  CheckpointWriter(const CheckpointWriter&) = delete;
  CheckpointWriter& operator=(const CheckpointWriter&) = delete;
  ~CheckpointWriter();

  /// What a write is for, beside the state.
  struct Order {
    std::filesystem::path parent;  ///< folder of the checkpoints or of the snapshots
    CheckpointOrigin origin;
    std::string resumed_from;  ///< name of the checkpoint that this incarnation began with
    std::optional<double> heldout_loss = std::nullopt;
    std::function<std::uint64_t()> metrics_bytes = {};  ///< of rank 0: length of metrics.jsonl now
    std::function<void()> before_publishing = {};  ///< of rank 0, on its thread: brings metrics.jsonl to the device
  };
  /// Copies the whole state and begins to write a checkpoint.
  /// @throws comm::CommError naming a rank whose state has drifted from the others'; std::logic_error while busy()
  void begin_checkpoint(const Order& order);
  /// The same for the power-function averages, which ema.power_sigmas names. Before the first update there are none,
  /// and nothing is written.
  void begin_snapshot(const Order& order);

  bool busy() const { return phase_ != Phase::idle; }
  /// What this rank's thread has to say.
  void cast(Votes& votes) const;
  /// Goes on as the ranks' votes say. @return the outcome, once it is known
  /// @throws RunSuperseded if another start has taken the run; comm::CommError
  std::optional<WriteOutcome> act(const Votes& votes);
  /// Waits for the end of the write in flight. @return its outcome; nullopt if there is none. @throws as act()
  std::optional<WriteOutcome> finish();

 private:
  enum class Phase { idle, writing, publishing };
  struct Written {
    std::map<std::string, WrittenFile> files;
    std::string error;
  };
  struct Published {
    std::string error;
    bool superseded = false;
    double seconds = 0;  // until the checkpoint had its name
  };

  void begin(const Order& order, Contents contents, std::vector<PersistentBuffer> buffers);
  Written write_part(const std::vector<std::string>& buffers, const std::map<std::string, at::Tensor>& history) const;
  std::pair<std::string, WrittenFile> write_buffer(const std::string& buffer) const;
  Published publish(const CheckpointManifest& manifest, const std::function<void()>& before_publishing) const;
  WriteOutcome end(bool published);

  TrainingState& state_;
  const ShardGather& shards_;
  comm::Communicator& control_;
  const Incarnation& incarnation_;
  CheckpointConfig config_;
  std::vector<int> writers_;             // ranks
  std::optional<std::size_t> own_part_;  // index in writers_
  StagedState staged_;

  Phase phase_ = Phase::idle;
  std::filesystem::path path_;  // of the write in flight
  CheckpointManifest manifest_;
  std::function<void()> before_publishing_;
  WriteOutcome outcome_;
  std::chrono::steady_clock::time_point begun_;
  std::future<Written> written_;
  std::future<Published> published_;  // rank 0
};

}  // namespace perrin::trainer
