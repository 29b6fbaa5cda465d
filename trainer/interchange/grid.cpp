#include "trainer/interchange/grid.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <stdexcept>

namespace perrin::trainer {
namespace {

/// @param canvas  [H, W, C] uint8, contiguous
Picture picture_of(const at::Tensor& canvas) {
  Picture picture{static_cast<std::uint32_t>(canvas.size(1)),
                  static_cast<std::uint32_t>(canvas.size(0)),
                  static_cast<std::uint32_t>(canvas.size(2)),
                  {}};
  const auto* pixels = canvas.const_data_ptr<std::uint8_t>();
  picture.pixels.assign(pixels, pixels + canvas.numel());
  return picture;
}

}  // namespace

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
  return picture_of(canvas);
}

Picture make_picture(const at::Tensor& image) {
  if (image.dim() != 3 || image.scalar_type() != at::kByte || (image.size(0) != 1 && image.size(0) != 3))
    throw std::invalid_argument("make_picture: " + c10::str(image.sizes()) + " of type " +
                                c10::toString(image.scalar_type()) + "; uint8 [1 or 3, H, W] is needed");
  return picture_of(image.permute({1, 2, 0}).contiguous());
}

}  // namespace perrin::trainer
