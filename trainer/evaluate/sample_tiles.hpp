#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <vector>

namespace perrin::trainer {

/// Images of consecutive indices that the network sees together, of which some may be wanted only.
struct SampleTile {
  std::int64_t first;    ///< index of its first image
  std::int64_t images;   ///< that it holds
  std::int64_t skipped;  ///< of them before the first that is wanted
  std::int64_t wanted;   ///< after those

  /// @param rows  [images, ...]   @return [wanted, ...]
  at::Tensor wanted_of(const at::Tensor& rows) const { return rows.narrow(0, skipped, wanted); }
};

/// The tiles that hold images first .. first + count - 1, in order. Convolutions and matrix products choose the order
/// of their sums by the size of the batch, so the network is asked for whole tiles only: image i is row i mod n of tile
/// i / n, whoever wants it and with whatever others. Hence the same bits for any batch_size on the CPU, where n is
/// fixed; on other devices a tile is a batch of `batch_size`.
std::vector<SampleTile> sample_tiles(std::int64_t first, std::int64_t count, std::int64_t batch_size,
                                     at::Device device);

}  // namespace perrin::trainer
