#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <span>

#include "data/dataset.hpp"

namespace perrin::trainer {

/// All images of a dataset in the memory of one device, each verified once as it is read.
class ResidentImages {
 public:
  /// @throws RunError where the memory does not suffice; data::DataError
  ResidentImages(const data::Dataset& dataset, at::Device device);

  /// uint8 [samples, C, H, W] on the device, in that order.
  at::Tensor gather(std::span<const std::uint64_t> samples) const;

 private:
  at::Tensor images_;  // uint8 [N, C, H, W]
};

}  // namespace perrin::trainer
