#include "trainer/interchange/grid.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <stdexcept>

namespace perrin::trainer {

Picture make_grid(const at::Tensor& images, std::int64_t rows, std::int64_t columns) {
  if (images.dim() != 4 || images.scalar_type() != at::kByte || (images.size(1) != 1 && images.size(1) != 3) ||
      rows < 1 || columns < 1 || images.size(0) > rows * columns) {
    throw std::invalid_argument("make_grid: images " + c10::str(images.sizes()) + " of type " +
                                c10::toString(images.scalar_type()) + " do not fit a grid of " + std::to_string(rows) +
                                "x" + std::to_string(columns) + "; uint8 [N, 1 or 3, H, W] is needed");
  }
  constexpr std::int64_t kGap = 2;
  const std::int64_t channels = images.size(1), height = images.size(2), width = images.size(3);
  at::Tensor canvas = at::zeros({rows * (height + kGap) + kGap, columns * (width + kGap) + kGap, channels}, at::kByte);
  for (std::int64_t i = 0; i < images.size(0); ++i) {
    const std::int64_t top = kGap + i / columns * (height + kGap), left = kGap + i % columns * (width + kGap);
    canvas.narrow(0, top, height).narrow(1, left, width).copy_(images[i].permute({1, 2, 0}));
  }
  Picture picture{static_cast<std::uint32_t>(canvas.size(1)),
                  static_cast<std::uint32_t>(canvas.size(0)),
                  static_cast<std::uint32_t>(channels),
                  {}};
  const auto* pixels = canvas.const_data_ptr<std::uint8_t>();
  picture.pixels.assign(pixels, pixels + canvas.numel());
  return picture;
}

}  // namespace perrin::trainer
