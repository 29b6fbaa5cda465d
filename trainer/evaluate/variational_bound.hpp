#pragma once

#include <c10/core/Device.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "comm/communicator.hpp"
#include "data/batch_loader.hpp"
#include "data/dataset.hpp"
#include "trainer/config.hpp"
#include "trainer/diffusion/bound.hpp"
#include "trainer/diffusion/denoiser.hpp"

namespace perrin::trainer {

/// What is measured, and how.
struct BoundOptions {
  std::int64_t images = 2048;  ///< at most; the first of the dataset
  std::int64_t batch_size = 64;
  std::int64_t steps = 0;  ///< of the process: timesteps evenly from 0 to T - 1, respaced; 0: all
  VarianceType variance = VarianceType::fixed_large;
  NormalCdf cdf = NormalCdf::tanh;
};

/// The variational bound term by term, each a mean over images.
struct VariationalBound {
  std::vector<std::int64_t> timesteps;  ///< that the process visits, ascending; [S] as all below
  std::vector<double> vb;               ///< bits/dim: L_0 at the first, L_{t-1} at the others
  std::vector<double> x0_mse;
  std::vector<double> eps_mse;
  double prior = 0;  ///< L_T, bits/dim
  std::int64_t images = 0;

  double total() const;  ///< bits/dim: prior and every term of vb
};

/// A model that knows the labels of a batch.
using BatchDenoiser = std::function<Denoiser(const data::Batch& batch)>;

/// Takes the lines that tell a waiting person what it will cost and how long it still takes.
using Narrator = std::function<void(const std::string& line)>;

/// The bound of held-out images, by all ranks together. Image i meets timestep t with noise keyed by (i, t) alone, and
/// sums are taken in one order, so that the result is the same to the bit on any number of ranks, with the same threads
/// each. The network computes in float32, the terms in double. Collective.
/// @param denoiser_of  unguided: guidance is no likelihood. With x0 clipped where published figures are wanted
/// @param schedule  of the network's timesteps
/// @param narrate  called on rank 0, before the first forward pass and every 10 s; may be empty
/// @throws std::invalid_argument for steps outside [0, T], data::DataError, comm::CommError
VariationalBound variational_bound(const BatchDenoiser& denoiser_of, const NoiseSchedule& schedule,
                                   const BoundOptions& options, const data::Dataset& heldout,
                                   comm::Communicator& control, at::Device device, const Narrator& narrate = {});

}  // namespace perrin::trainer
