#include "trainer/evaluate/sample_images.hpp"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "trainer/deadlines.hpp"
#include "trainer/diffusion/samplers.hpp"
#include "trainer/images.hpp"

namespace perrin::trainer {

at::Tensor sample_images(const UNet& model, const DiffusionProcess& process, const SampleConfig& config,
                         VarianceType variance, const data::ImageShape& shape, comm::Communicator& control,
                         at::Device device) {
  const at::NoGradGuard no_grad;
  const std::int64_t images = config.rows * config.columns,
                     batches = (images + config.batch_size - 1) / config.batch_size;
  at::Tensor pixels = at::zeros({images, shape.channels, shape.height, shape.width}, at::kByte);

  for (std::int64_t batch = control.rank(); batch < batches; batch += control.size()) {
    const std::int64_t first = batch * config.batch_size, count = std::min(config.batch_size, images - first);
    std::vector<std::uint64_t> indices(static_cast<std::size_t>(count));
    std::iota(indices.begin(), indices.end(), static_cast<std::uint64_t>(first));
    const EpsilonModel predict = [&](const at::Tensor& x_t, const at::Tensor& t) { return model(x_t, t); };
    pixels.narrow(0, first, count).copy_(to_pixels(sample(predict, process, config, variance, indices, shape, device)));
  }
  // Every image is zero on all ranks but the one that drew it, so the largest value is the image.
  control
      .all_reduce(std::span(pixels.mutable_data_ptr<std::uint8_t>(), static_cast<std::size_t>(pixels.numel())),
                  comm::ReduceOp::max)
      .wait(kLongWork);  // ranks may have one batch more or less
  return pixels;
}

}  // namespace perrin::trainer
