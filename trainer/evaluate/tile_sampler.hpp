#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "data/image_shape.hpp"
#include "trainer/config.hpp"
#include "trainer/diffusion/schedule.hpp"
#include "trainer/evaluate/sample_tiles.hpp"
#include "trainer/model/unet.hpp"
#include "trainer/thread_team.hpp"

namespace perrin::trainer {

/// The images of a tile, wanted or not.
struct DrawnTile {
  SampleTile tile;
  at::Tensor pixels;  ///< uint8 [tile.images, C, H, W], on the sampler's device
};

/// Draws samples tile by tile; on the CPU the threads of a rank take a tile each. All noise is keyed by (sample.seed,
/// index, step), and classes by the index.
class TileSampler {
 public:
  /// Sees what the network predicts of x_0, [N, C, H, W], at every evaluation for the tile of the given number; called
  /// by the thread that draws it.
  using Observer = std::function<void(std::size_t tile, const at::Tensor& x0)>;

  /// It refers to model and configuration, which must outlive it.
  /// @throws RunError where sample.sigma_min and sample.sigma_max leave nothing of the schedule
  TileSampler(const UNet& model, const Config& config, const data::ImageShape& shape, at::Device device);

  /// Images first .. first + count - 1.
  /// @return the tiles that hold them, in order
  std::vector<DrawnTile> draw(std::int64_t first, std::int64_t count, const Observer& observe = {});

 private:
  at::Tensor draw_tile(const SampleTile& tile, std::size_t number, const Observer& observe) const;

  const UNet& model_;
  const Config& config_;
  std::shared_ptr<const NoiseSchedule> schedule_;
  SampleConfig sample_;  // within the schedule
  data::ImageShape shape_;
  at::Device device_;
  ThreadTeam team_;
};

}  // namespace perrin::trainer
