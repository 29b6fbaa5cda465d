#pragma once

#include <cstdint>
#include <vector>

#include "comm/communicator.hpp"
#include "trainer/diffusion/level_sampler.hpp"
#include "trainer/diffusion/loss_history.hpp"
#include "trainer/diffusion/objective.hpp"
#include "trainer/loss_window.hpp"
#include "trainer/votes.hpp"

namespace perrin::trainer {

/// What the images of one global batch had as losses: gathered by slices on each rank, then added up over the ranks.
class StepLosses {
 public:
  /// @param keep_each  whether the loss of every image is wanted, for a LossHistory
  StepLosses(std::int64_t global_batch, bool keep_each);

  /// Takes in one slice. @param offset  of its first image in the global batch
  void add(const ObjectiveTerms& terms, const LevelDraw& draw, std::int64_t offset);

  /// Adds up what the ranks gathered, and their votes, in one reduction. Collective.
  void add_up(comm::Communicator& control, Votes& votes);

  double loss() const { return sums_[kLoss]; }
  /// Adds this step to the window since the last report.
  void add_to(LossWindow& window) const;
  /// Takes the images' losses in, in the order of the batch.
  /// @param t  [global_batch] timesteps
  void add_to(LossHistory& history, const std::vector<std::int64_t>& t) const;

 private:
  enum Index : std::size_t {
    kLoss = kVotes,  // behind the votes
    kSimple,
    kBound,
    kQuartileSums,
    kQuartileWeights = kQuartileSums + LossWindow::kQuartiles,
    kEach = kQuartileWeights + LossWindow::kQuartiles
  };

  double global_batch_;
  std::vector<double> sums_;
};

}  // namespace perrin::trainer
