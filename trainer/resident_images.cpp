#include "trainer/resident_images.hpp"

#include <ATen/ATen.h>
#include <c10/util/Exception.h>
#include <fmt/format.h>

#include <algorithm>

#include "trainer/run_error.hpp"

namespace perrin::trainer {
namespace {

constexpr std::uint64_t kPieceBytes = std::uint64_t{64} << 20;  // read at once

at::Tensor allocate(const data::Dataset& dataset, at::Device device) {
  const data::ImageShape& shape = dataset.shape();
  const auto images = static_cast<std::int64_t>(dataset.size());
  try {
    return at::empty({images, shape.channels, shape.height, shape.width}, at::TensorOptions(at::kByte).device(device));
  } catch (const c10::Error&) {
    throw RunError(fmt::format("{} MiB for the images of {} are not free on {}; set data.resident = false",
                               (dataset.size() * shape.bytes()) >> 20, dataset.folder().string(), device.str()));
  }
}

}  // namespace

ResidentImages::ResidentImages(const data::Dataset& dataset, at::Device device) : images_(allocate(dataset, device)) {
  const data::ImageShape& shape = dataset.shape();
  const std::uint64_t piece = std::max<std::uint64_t>(1, kPieceBytes / shape.bytes());
  for (std::uint64_t first = 0; first < dataset.size(); first += piece) {
    const std::uint64_t count = std::min(piece, dataset.size() - first);
    const at::Tensor pixels =
        at::empty({static_cast<std::int64_t>(count), shape.channels, shape.height, shape.width}, at::kByte);
    dataset.read(first, count, {pixels.mutable_data_ptr<std::uint8_t>(), count * shape.bytes()});
    images_.narrow(0, static_cast<std::int64_t>(first), static_cast<std::int64_t>(count)).copy_(pixels);
  }
}

at::Tensor ResidentImages::gather(std::span<const std::uint64_t> samples) const {
  at::Tensor indices = at::empty({static_cast<std::int64_t>(samples.size())}, at::kLong);
  std::copy(samples.begin(), samples.end(), indices.mutable_data_ptr<std::int64_t>());
  return images_.index_select(0, indices.to(images_.device()));
}

}  // namespace perrin::trainer
