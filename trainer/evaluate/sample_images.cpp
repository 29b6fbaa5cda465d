#include "trainer/evaluate/sample_images.hpp"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <span>
#include <vector>

#include "trainer/deadlines.hpp"
#include "trainer/evaluate/tile_sampler.hpp"
#include "trainer/images.hpp"

namespace perrin::trainer {
std::optional<at::Tensor> sample_images(const UNet& model, const Config& config, const data::ImageShape& shape,
                                        comm::Communicator& control, at::Device device, const Interrupt& interrupt) {
  const at::NoGradGuard no_grad;
  TileSampler sampler(model, config, shape, device);
  const std::int64_t images = config.sample.rows * config.sample.columns, size = config.sample.batch_size,
                     batches = (images + size - 1) / size;
  at::Tensor pixels = at::zeros({images, shape.channels, shape.height, shape.width}, at::kByte);

  for (std::int64_t round = 0; round * control.size() < batches; ++round) {
    if (interrupt && interrupt()) return std::nullopt;
    const std::int64_t batch = round * control.size() + control.rank();
    if (batch >= batches) continue;
    const std::int64_t first = batch * size, count = std::min(size, images - first);
    for (const auto& [tile, drawn] : sampler.draw(first, count))
      pixels.narrow(0, tile.first + tile.skipped, tile.wanted).copy_(tile.wanted_of(drawn));
  }
  // Every image is zero on all ranks but the one that drew it, so the largest value is the image.
  control
      .all_reduce(std::span(pixels.mutable_data_ptr<std::uint8_t>(), static_cast<std::size_t>(pixels.numel())),
                  comm::ReduceOp::max)
      .wait(kLongWork);  // ranks may have one batch more or less
  return pixels;
}

at::Tensor sample_progression(const UNet& model, const Config& config, const data::ImageShape& shape, at::Device device,
                              std::int64_t images, std::int64_t pictures) {
  const at::NoGradGuard no_grad;
  TileSampler sampler(model, config, shape, device);
  std::vector<std::vector<at::Tensor>> states(sample_tiles(0, images, config.sample.batch_size, device).size());
  const std::vector<DrawnTile> drawn =
      sampler.draw(0, images, [&](std::size_t tile, const at::Tensor& x0) { states[tile].push_back(to_pixels(x0)); });
  std::vector<at::Tensor> strips;
  for (std::size_t i = 0; i < drawn.size(); ++i) {
    const auto evaluations = static_cast<std::int64_t>(states[i].size());
    std::vector<at::Tensor> chosen;
    for (std::int64_t k = 0; k + 1 < pictures; ++k)
      chosen.push_back(states[i][static_cast<std::size_t>(k * evaluations / (pictures - 1))]);
    chosen.push_back(drawn[i].pixels);
    strips.push_back(drawn[i].tile.wanted_of(at::stack(chosen, 1)));
  }
  return at::cat(strips).flatten(0, 1);
}

}  // namespace perrin::trainer
