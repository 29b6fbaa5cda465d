#pragma once

#include <c10/core/Device.h>

#include <cstdint>
#include <optional>

#include "comm/communicator.hpp"
#include "data/dataset.hpp"
#include "trainer/config.hpp"
#include "trainer/diffusion/process.hpp"
#include "trainer/interrupt.hpp"
#include "trainer/model/unet.hpp"

namespace perrin::trainer {

struct HeldoutLoss {
  double loss = 0;                       ///< mean L_simple over images, unweighted
  std::optional<double> bound_estimate;  ///< of the variational bound, in bits/dim; discrete networks only
  std::int64_t images = 0;
};

/// L_simple on held-out images with fixed noise levels and noise, by all ranks together, and by a second forward pass
/// an estimate of the variational bound: one timestep for each image, as bound_points says, x_0 clipped. For
/// L_simple image i of n is noised to t = floor((i + 1/2) T / n) (edm: that quantile of sigma), with noise keyed by i
/// alone, so the figures of two steps, two runs or two world sizes compare. Collective.
/// @param interrupt asked before every batch; empty: nobody interrupts
/// @return nullopt if interrupted
/// @throws data::DataError, comm::CommError; std::invalid_argument if the dataset's shape is not the model's
std::optional<HeldoutLoss> evaluate_heldout(const UNet& model, const Config& config, const DiffusionProcess& process,
                                            const data::Dataset& heldout, comm::Communicator& control,
                                            at::Device device, const Interrupt& interrupt = {});

}  // namespace perrin::trainer
